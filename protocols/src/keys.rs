//! What a terminal in raw mode sends: [`TerminalInput`]. [`KeyDecoder`] makes it of bytes.
//!
//! The bytes are those of xterm and of what imitates it: ECMA-48 sequences for keys, mode 1006 for the mouse,
//! mode 2004 for pasted text, and the forms in which the Linux console, rxvt and kitty differ.

mod decoder;

use std::fmt;

pub use decoder::KeyDecoder;

/// Something that the user of a terminal has done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum TerminalInput {
    /// A key was pressed, perhaps repeated by being held. Terminals do not tell of its release.
    Key(Key),
    /// The mouse was used. Only where reports were asked for.
    Mouse(Mouse),
    /// Text was pasted. Only where it was asked for that it be marked; else it looks like keys.
    Paste {
        /// The text. Its lines end as the terminal likes, usually with `\r`.
        text: String,
        /// There was more of it than the limit.
        is_cut: bool,
    },
    /// The window is the one that the keys go to, or is no longer. Only where this was asked for (mode 1004).
    Focus(bool),
    /// A sequence that means nothing here: the answer to a question, say. At most 64 bytes of it.
    Unknown(Vec<u8>),
}

/// A key, with what was held down.
///
/// ```
/// use twistor_protocols::{Key, KeyCode};
///
/// assert_eq!(Key::from('c').control().to_string(), "Ctrl-c");
/// assert_eq!(Key::from(KeyCode::F(5)).shift().to_string(), "Shift-F5");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Which key.
    pub code: KeyCode,
    /// What was held down. A capital letter is [`Char`](KeyCode::Char) of that letter, without `shift`.
    pub modifiers: Modifiers,
}

/// Which key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum KeyCode {
    /// One that makes a character, the space among them. What is no UTF-8 is U+FFFD.
    Char(char),
    /// Return, on either part of the keyboard. Ctrl-J and Ctrl-M send the same.
    Enter,
    /// Tab, which is what Ctrl-I sends.
    Tab,
    /// Deletes to the left. Where a terminal sends Ctrl-H for it, it is that.
    Backspace,
    /// Escape.
    Esc,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow to the left.
    Left,
    /// Arrow to the right.
    Right,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// Insert.
    Insert,
    /// Deletes to the right.
    Delete,
    /// The 5 of the numeric part, without a number.
    Begin,
    /// A function key, from 1 on.
    F(u8),
}

/// What is held down with a key or a button.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Modifiers {
    /// Shift.
    pub shift: bool,
    /// Alt, or Meta, or a preceding Escape.
    pub alt: bool,
    /// Control.
    pub control: bool,
}

/// What was done with the mouse, and where.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mouse {
    /// What was done.
    pub action: MouseAction,
    /// The column, from 1 on.
    pub column: u16,
    /// The row, from 1 on.
    pub row: u16,
    /// What was held down. Many terminals keep the mouse to themselves while Shift is.
    pub modifiers: Modifiers,
}

/// What was done with the mouse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum MouseAction {
    /// A button goes down.
    Press(MouseButton),
    /// It goes up.
    Release(MouseButton),
    /// It is moved with the button down.
    Drag(MouseButton),
    /// It is moved.
    Move,
    /// The wheel, a notch away from the user.
    ScrollUp,
    /// The wheel, a notch towards the user.
    ScrollDown,
    /// The wheel, to the left.
    ScrollLeft,
    /// The wheel, to the right.
    ScrollRight,
}

/// A button of the mouse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MouseButton {
    /// The first.
    Left,
    /// The wheel, usually.
    Middle,
    /// The third.
    Right,
    /// Another: 8 is back and 9 forward, as X11 counts them.
    Other(u8),
}

impl From<KeyCode> for Key {
    fn from(code: KeyCode) -> Self {
        Self { code, modifiers: Modifiers::default() }
    }
}

impl From<char> for Key {
    fn from(character: char) -> Self {
        KeyCode::Char(character).into()
    }
}

impl Key {
    /// The same with Control.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.modifiers.control = true;
        self
    }

    /// The same with Alt.
    #[must_use]
    pub fn alt(mut self) -> Self {
        self.modifiers.alt = true;
        self
    }

    /// The same with Shift.
    #[must_use]
    pub fn shift(mut self) -> Self {
        self.modifiers.shift = true;
        self
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.modifiers, self.code)
    }
}

impl fmt::Display for KeyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Char(' ') => f.write_str("Space"),
            Self::Char(character) => write!(f, "{character}"),
            Self::F(number) => write!(f, "F{number}"),
            named => write!(f, "{named:?}"),
        }
    }
}

/// Each with a hyphen behind it, to stand before a key.
impl fmt::Display for Modifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (is_held, name) in [(self.control, "Ctrl-"), (self.alt, "Alt-"), (self.shift, "Shift-")] {
            if is_held {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}
