//! [`KeyDecoder`]: bytes of a terminal, in any pieces, become [`TerminalInput`].
//!
//! It goes byte by byte, so that pieces cannot mean anything. What it keeps is bounded: the beginning of a
//! character or of a sequence, at most 64 bytes, and pasted text up to its limit.

use std::fmt;
use std::mem;

use memchr::memchr;

use crate::keys::{Key, KeyCode, Modifiers, Mouse, MouseAction, MouseButton, TerminalInput};

const ESC: u8 = 0x1b;
/// A longer sequence is none that a terminal sends.
const SEQUENCE_LIMIT: usize = 64;
/// The most of a pasted text, unless [`KeyDecoder::paste_limit`] says otherwise.
const PASTE_LIMIT: usize = 1 << 20;
/// What marks the end of pasted text.
const PASTE_END: &[u8] = b"\x1b[201~";

/// Makes what a terminal sends into keys, clicks and pasted texts. Does no I/O and knows no clock.
///
/// The key Esc sends the byte with which all other sequences begin. Only time can tell: while
/// [`is_waiting`](Self::is_waiting) says so, set a timer, of 25 to 100 milliseconds, and call
/// [`flush`](Self::flush) if nothing has come until then.
///
/// ```
/// use twistor_protocols::{Key, KeyCode, KeyDecoder, TerminalInput};
///
/// let mut decoder = KeyDecoder::new();
/// let mut keys = Vec::new();
/// decoder.feed(b"q\x03\x1b[1;5", |input| keys.push(input));
/// decoder.feed(b"A\x1b", |input| keys.push(input));
/// assert!(decoder.is_waiting());
/// decoder.flush(|input| keys.push(input));
/// assert_eq!(keys, [
///     Key::from('q'),
///     Key::from('c').control(),
///     Key::from(KeyCode::Up).control(),
///     Key::from(KeyCode::Esc),
/// ].map(TerminalInput::Key));
/// ```
#[derive(Clone)]
pub struct KeyDecoder {
    state: State,
    /// The sequence or character that is not complete.
    pending: Vec<u8>,
    pasted: Vec<u8>,
    paste_limit: usize,
    is_cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Between two things.
    Ground,
    /// In a character of several bytes.
    Character { alt: bool },
    /// After ESC.
    Escape,
    /// After ESC and `[`.
    Control,
    /// After ESC, `[` and `[`: the Linux console means a function key.
    Console,
    /// After ESC and `O`.
    Single,
    /// After the beginning of a mouse report of the old form: so many bytes are missing.
    OldMouse(u8),
    /// In a sequence that is too long.
    Skip,
    /// In pasted text, of whose end mark so many bytes have come.
    Paste(usize),
}

impl KeyDecoder {
    /// Nothing has come yet; a pasted text may have 1 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Ground,
            pending: Vec::new(),
            pasted: Vec::new(),
            paste_limit: PASTE_LIMIT,
            is_cut: false,
        }
    }

    /// The most bytes of a pasted text; the rest of it is dropped.
    #[must_use]
    pub fn paste_limit(mut self, bytes: usize) -> Self {
        self.paste_limit = bytes;
        self
    }

    /// Takes bytes, cut at no place that means anything, and calls `found` with all that is complete with
    /// them.
    pub fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(TerminalInput)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.state == State::Paste(0) {
                let length = memchr(ESC, bytes).unwrap_or(bytes.len());
                self.paste(&bytes[..length]);
                bytes = &bytes[length..];
                if length > 0 {
                    continue;
                }
            }
            // Where a byte ends something without belonging to it, it begins the next.
            if self.take(byte, &mut found) {
                bytes = rest;
            }
        }
    }

    /// Whether something has begun that time would end: Esc, or a sequence that was cut short.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Ground | State::Paste(_))
    }

    /// Nothing more has come: what has begun is all there is of it. Pasted text goes on until its end mark.
    pub fn flush(&mut self, mut found: impl FnMut(TerminalInput)) {
        if !self.is_waiting() {
            return;
        }
        let pending = mem::take(&mut self.pending);
        let input = match mem::replace(&mut self.state, State::Ground) {
            State::Escape => KeyCode::Esc.into(),
            State::Character { alt } => plain(char::REPLACEMENT_CHARACTER, alt),
            // Keys of that name, after all.
            State::Control if pending.len() == 2 => plain('[', true),
            State::Single if pending.len() == 2 => plain('O', true),
            State::Skip => return,
            _ => TerminalInput::Unknown(pending),
        };
        found(input);
    }

    /// Says whether the byte is done with.
    fn take(&mut self, byte: u8, found: &mut impl FnMut(TerminalInput)) -> bool {
        match self.state {
            State::Ground => self.begin(byte, false, found),
            State::Character { alt } => return self.character(byte, alt, found),
            State::Escape => match byte {
                b'[' => self.go_on(byte, State::Control),
                b'O' => self.go_on(byte, State::Single),
                // The first was the key; this one begins something.
                ESC => found(KeyCode::Esc.into()),
                _ => {
                    self.pending.clear();
                    self.state = State::Ground;
                    self.begin(byte, true, found);
                }
            },
            State::Control => match byte {
                b'[' if self.pending.len() == 2 => self.go_on(byte, State::Console),
                b'M' if self.pending.len() == 2 => self.go_on(byte, State::OldMouse(3)),
                b' '..=b'?' => self.more(byte, found),
                b'@'..=b'~' => self.finish(byte, found),
                _ => return self.give_up(found),
            },
            State::Single => match byte {
                b'0'..=b'?' => self.more(byte, found),
                b'@'..=b'~' => self.finish(byte, found),
                _ => return self.give_up(found),
            },
            State::Console => match byte {
                b'A'..=b'E' => {
                    self.pending.clear();
                    self.state = State::Ground;
                    found(KeyCode::F(byte - b'A' + 1).into());
                }
                b'@'..=b'~' => self.finish(byte, found),
                _ => return self.give_up(found),
            },
            State::OldMouse(missing) => {
                self.go_on(byte, State::OldMouse(missing - 1));
                if missing == 1 {
                    self.give_up(found);
                }
            }
            State::Skip => match byte {
                b' '..=b'?' => {}
                b'@'..=b'~' => self.state = State::Ground,
                _ => {
                    self.state = State::Ground;
                    return false;
                }
            },
            State::Paste(matched) => self.pasting(byte, matched, found),
        }
        true
    }

    /// The first byte of something.
    fn begin(&mut self, byte: u8, alt: bool, found: &mut impl FnMut(TerminalInput)) {
        if byte == ESC {
            self.go_on(byte, State::Escape);
        } else if byte.is_ascii() {
            let mut key = ascii(byte);
            key.modifiers.alt = alt;
            found(TerminalInput::Key(key));
        } else {
            self.character(byte, alt, found);
        }
    }

    fn character(&mut self, byte: u8, alt: bool, found: &mut impl FnMut(TerminalInput)) -> bool {
        self.go_on(byte, State::Character { alt });
        let (character, is_done) = match std::str::from_utf8(&self.pending) {
            Ok(text) => (text.chars().next(), true),
            Err(error) if error.error_len().is_none() => return true,
            // The byte that does not continue it may begin the next, unless it is alone.
            Err(_) => (None, self.pending.len() == 1),
        };
        self.pending.clear();
        self.state = State::Ground;
        found(plain(character.unwrap_or(char::REPLACEMENT_CHARACTER), alt));
        is_done
    }

    fn go_on(&mut self, byte: u8, state: State) {
        self.pending.push(byte);
        self.state = state;
    }

    /// A byte inside a sequence.
    fn more(&mut self, byte: u8, found: &mut impl FnMut(TerminalInput)) {
        self.pending.push(byte);
        if self.pending.len() >= SEQUENCE_LIMIT {
            self.give_up(found);
            self.state = State::Skip;
        }
    }

    /// The last byte of a sequence.
    fn finish(&mut self, byte: u8, found: &mut impl FnMut(TerminalInput)) {
        self.pending.push(byte);
        if self.pending == b"\x1b[200~" {
            self.pending.clear();
            self.state = State::Paste(0);
            return;
        }
        let input = meaning(&self.pending);
        match input {
            Some(input) => {
                self.pending.clear();
                self.state = State::Ground;
                found(input);
            }
            None => {
                self.give_up(found);
            }
        }
    }

    /// What has begun means nothing. The byte after it is not done with.
    fn give_up(&mut self, found: &mut impl FnMut(TerminalInput)) -> bool {
        self.state = State::Ground;
        found(TerminalInput::Unknown(mem::take(&mut self.pending)));
        false
    }

    fn pasting(&mut self, byte: u8, matched: usize, found: &mut impl FnMut(TerminalInput)) {
        if byte == PASTE_END[matched] {
            if matched + 1 < PASTE_END.len() {
                self.state = State::Paste(matched + 1);
                return;
            }
            self.state = State::Ground;
            let is_cut = mem::take(&mut self.is_cut);
            let mut text = mem::take(&mut self.pasted);
            if is_cut
                && let Err(error) = std::str::from_utf8(&text)
                && error.error_len().is_none()
            {
                // The limit fell into a character.
                text.truncate(error.valid_up_to());
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            return found(TerminalInput::Paste { text, is_cut });
        }
        // It was text. ESC, with which the mark begins, stands nowhere else in it.
        self.paste(&PASTE_END[..matched]);
        self.state = State::Paste(usize::from(byte == ESC));
        if byte != ESC {
            self.paste(&[byte]);
        }
    }

    fn paste(&mut self, text: &[u8]) {
        let room = self.paste_limit.saturating_sub(self.pasted.len());
        self.is_cut |= text.len() > room;
        self.pasted.extend_from_slice(&text[..text.len().min(room)]);
    }
}

impl Default for KeyDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Without what was typed or pasted, which may be secret.
impl fmt::Debug for KeyDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyDecoder").field("is_waiting", &self.is_waiting()).finish_non_exhaustive()
    }
}

impl From<KeyCode> for TerminalInput {
    fn from(code: KeyCode) -> Self {
        Self::Key(code.into())
    }
}

fn plain(character: char, alt: bool) -> TerminalInput {
    let mut key = Key::from(character);
    key.modifiers.alt = alt;
    TerminalInput::Key(key)
}

/// A key that sends one byte.
fn ascii(byte: u8) -> Key {
    match byte {
        b'\r' | b'\n' => KeyCode::Enter.into(),
        b'\t' => KeyCode::Tab.into(),
        0x7f => KeyCode::Backspace.into(),
        0 => Key::from(' ').control(),
        // Ctrl takes the two upper bits away.
        0x01..=0x1a => Key::from(char::from(byte | 0x60)).control(),
        0x1b..=0x1f => Key::from(char::from(byte | 0x40)).control(),
        _ => char::from(byte).into(),
    }
}

/// What a complete sequence means.
fn meaning(sequence: &[u8]) -> Option<TerminalInput> {
    let (last, start) = sequence.split_last()?;
    let (kind, parameters) = start.get(1..)?.split_first()?;
    if let Some(report) = parameters.strip_prefix(b"<") {
        return mouse(report, *last);
    }
    let numbers = numbers(parameters)?;
    let number = |place: usize| numbers.get(place).copied().unwrap_or(0);
    let code = match (kind, last, &*numbers) {
        (b'[', b'I', []) => return Some(TerminalInput::Focus(true)),
        (b'[', b'O', []) => return Some(TerminalInput::Focus(false)),
        (b'[', b'Z', _) => return Some(TerminalInput::Key(Key::from(KeyCode::Tab).shift())),
        (b'[', b'~', [27, modifiers, code]) => return modified(character(*code)?, *modifiers),
        (b'[', b'~', _) => numbered(number(0))?,
        (b'[', b'u', [_, ..]) => character(number(0))?,
        // An answer that names a place ends like F3.
        (b'[', b'R', [first, _, ..]) if *first != 1 => return None,
        _ => lettered(*kind, *last)?,
    };
    let modifiers = match (kind, &*numbers) {
        // Old terminals: the number before the letter.
        (b'O', [modifiers]) => *modifiers,
        _ => number(1),
    };
    modified(code, modifiers)
}

fn modified(code: KeyCode, modifiers: u32) -> Option<TerminalInput> {
    // One more than the sum of the bits; a fourth and more are those of keys that are not held with others
    // here.
    let bits = modifiers.saturating_sub(1);
    let modifiers = Modifiers { shift: bits & 1 != 0, alt: bits & (2 | 32) != 0, control: bits & 4 != 0 };
    (bits <= 0xff).then_some(TerminalInput::Key(Key { code, modifiers }))
}

/// The numbers between semicolons, an empty one as 0. What stands behind a colon makes it another sequence.
fn numbers(parameters: &[u8]) -> Option<Vec<u32>> {
    if parameters.is_empty() {
        return Some(Vec::new());
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u32, |number, digit| {
            let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
    };
    parameters.split(|byte| *byte == b';').map(number).collect()
}

fn lettered(kind: u8, letter: u8) -> Option<KeyCode> {
    Some(match letter {
        b'A' => KeyCode::Up,
        b'B' => KeyCode::Down,
        b'C' => KeyCode::Right,
        b'D' => KeyCode::Left,
        b'E' => KeyCode::Begin,
        b'F' => KeyCode::End,
        b'H' => KeyCode::Home,
        b'P'..=b'S' => KeyCode::F(letter - b'P' + 1),
        // The numeric part of the keyboard in its application mode.
        b'M' if kind == b'O' => KeyCode::Enter,
        b'I' if kind == b'O' => KeyCode::Tab,
        b'X' if kind == b'O' => KeyCode::Char('='),
        b'j'..=b'y' if kind == b'O' => KeyCode::Char(char::from(letter - b'j' + b'*')),
        _ => return None,
    })
}

fn numbered(number: u32) -> Option<KeyCode> {
    Some(match number {
        1 | 7 => KeyCode::Home,
        2 => KeyCode::Insert,
        3 => KeyCode::Delete,
        4 | 8 => KeyCode::End,
        5 => KeyCode::PageUp,
        6 => KeyCode::PageDown,
        // There are gaps, where the keyboard of the VT220 had them.
        11..=15 => KeyCode::F(number as u8 - 10),
        17..=21 => KeyCode::F(number as u8 - 11),
        23..=26 => KeyCode::F(number as u8 - 12),
        28..=29 => KeyCode::F(number as u8 - 13),
        31..=34 => KeyCode::F(number as u8 - 14),
        _ => return None,
    })
}

/// A key that is named by its character.
fn character(code: u32) -> Option<KeyCode> {
    Some(match code {
        9 => KeyCode::Tab,
        13 => KeyCode::Enter,
        27 => KeyCode::Esc,
        127 => KeyCode::Backspace,
        // Numbers of a private area name other keys.
        57_344..=63_743 => return None,
        _ => KeyCode::Char(char::from_u32(code).filter(|character| !character.is_control())?),
    })
}

/// A report of the mouse: what, column, row.
fn mouse(report: &[u8], last: u8) -> Option<TerminalInput> {
    let [what, column, row] = *numbers(report)? else { return None };
    let button = match (what & 3) | ((what & 0xc0) >> 4) {
        0 => Some(MouseButton::Left),
        1 => Some(MouseButton::Middle),
        2 => Some(MouseButton::Right),
        3 => None,
        other => Some(MouseButton::Other(other as u8)),
    };
    let is_moved = what & 32 != 0;
    let action = match (last, button) {
        (b'M', Some(MouseButton::Other(4))) => MouseAction::ScrollUp,
        (b'M', Some(MouseButton::Other(5))) => MouseAction::ScrollDown,
        (b'M', Some(MouseButton::Other(6))) => MouseAction::ScrollLeft,
        (b'M', Some(MouseButton::Other(7))) => MouseAction::ScrollRight,
        (b'M', Some(button)) if is_moved => MouseAction::Drag(button),
        (b'M', Some(button)) => MouseAction::Press(button),
        (b'M', None) if is_moved => MouseAction::Move,
        (b'm', Some(button)) => MouseAction::Release(button),
        _ => return None,
    };
    let modifiers = Modifiers { shift: what & 4 != 0, alt: what & 8 != 0, control: what & 16 != 0 };
    let (column, row) = (u16::try_from(column).ok()?, u16::try_from(row).ok()?);
    (what < 256).then_some(TerminalInput::Mouse(Mouse { action, column, row, modifiers }))
}
