//! Input of terminals: what each sequence means, in whatever pieces it comes, and that nothing breaks it.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use proptest::prelude::*;
use twistor_protocols::{
    Key, KeyCode, KeyDecoder, Modifiers, Mouse, MouseAction, MouseButton, TerminalInput,
};

fn feed(decoder: &mut KeyDecoder, bytes: &[u8]) -> Vec<TerminalInput> {
    let mut inputs = Vec::new();
    decoder.feed(bytes, |input| inputs.push(input));
    inputs
}

fn flush(decoder: &mut KeyDecoder) -> Vec<TerminalInput> {
    let mut inputs = Vec::new();
    decoder.flush(|input| inputs.push(input));
    inputs
}

/// What these bytes are, with nothing after them.
fn decode(bytes: &[u8]) -> Vec<TerminalInput> {
    let mut decoder = KeyDecoder::new();
    let mut inputs = feed(&mut decoder, bytes);
    inputs.extend(flush(&mut decoder));
    assert!(!decoder.is_waiting());
    inputs
}

/// The keys by their names.
fn names(bytes: &[u8]) -> String {
    let name = |input| match input {
        TerminalInput::Key(key) => key.to_string(),
        other => format!("{other:?}"),
    };
    decode(bytes).into_iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn characters_and_control_characters() {
    assert_eq!(names("aZ 9~é€🦀".as_bytes()), "a Z Space 9 ~ é € 🦀");
    assert_eq!(names(b"\r\n\t\x7f\x08"), "Enter Enter Tab Backspace Ctrl-h");
    assert_eq!(names(b"\x00\x01\x03\x1a"), "Ctrl-Space Ctrl-a Ctrl-c Ctrl-z");
    assert_eq!(names(b"\x1c\x1d\x1e\x1f"), "Ctrl-\\ Ctrl-] Ctrl-^ Ctrl-_");
    assert_eq!(names(b"\x1ba\x1bZ\x1b \x1b\r\x1b\x03"), "Alt-a Alt-Z Alt-Space Alt-Enter Ctrl-Alt-c");
    assert_eq!(names("\x1bé".as_bytes()), "Alt-é");
    assert_eq!(names(b"\x1b\x7f\x1b\t"), "Alt-Backspace Alt-Tab");
}

#[test]
fn what_is_no_text_is_replaced_and_what_follows_is_not_lost() {
    assert_eq!(names(b"a\xffb"), "a \u{fffd} b");
    assert_eq!(names(b"\xe2\x82a"), "\u{fffd} a");
    assert_eq!(names(b"\xe2\x82\x1b[A"), "\u{fffd} Up");
    assert_eq!(names(b"\xe2\x82\xc3\xa9"), "\u{fffd} é");
    assert_eq!(names(b"\x80\x80"), "\u{fffd} \u{fffd}");
    // Surrogates and overlong forms.
    assert_eq!(names(b"\xed\xa0\x80x\xc0\x80y"), "\u{fffd} \u{fffd} \u{fffd} x \u{fffd} \u{fffd} y");
    // One that is cut off, when time is up.
    assert_eq!(names(b"\xf0\x9f\xa6"), "\u{fffd}");
    assert_eq!(names(b"\x1b\xc3"), "Alt-\u{fffd}");
}

#[test]
fn arrows_and_other_keys_of_all_the_terminals() {
    assert_eq!(names(b"\x1b[A\x1b[B\x1b[C\x1b[D\x1b[H\x1b[F\x1b[E"), "Up Down Right Left Home End Begin");
    assert_eq!(names(b"\x1bOA\x1bOB\x1bOC\x1bOD\x1bOH\x1bOF"), "Up Down Right Left Home End");
    assert_eq!(names(b"\x1b[1~\x1b[2~\x1b[3~\x1b[4~"), "Home Insert Delete End");
    assert_eq!(names(b"\x1b[5~\x1b[6~\x1b[7~\x1b[8~"), "PageUp PageDown Home End");
    assert_eq!(names(b"\x1bOP\x1bOQ\x1bOR\x1bOS"), "F1 F2 F3 F4");
    assert_eq!(names(b"\x1b[[A\x1b[[B\x1b[[C\x1b[[D\x1b[[E"), "F1 F2 F3 F4 F5");
    assert_eq!(names(b"\x1b[11~\x1b[12~\x1b[13~\x1b[14~\x1b[15~"), "F1 F2 F3 F4 F5");
    assert_eq!(names(b"\x1b[17~\x1b[18~\x1b[19~\x1b[20~\x1b[21~"), "F6 F7 F8 F9 F10");
    assert_eq!(names(b"\x1b[23~\x1b[24~\x1b[25~\x1b[26~"), "F11 F12 F13 F14");
    assert_eq!(names(b"\x1b[28~\x1b[29~\x1b[31~\x1b[34~"), "F15 F16 F17 F20");
    assert_eq!(names(b"\x1bOM\x1bOk\x1bOp\x1bOy\x1bOX"), "Enter + 0 9 =");
}

#[test]
fn what_is_held_down() {
    assert_eq!(
        names(b"\x1b[1;2A\x1b[1;3B\x1b[1;5C\x1b[1;8D"),
        "Shift-Up Alt-Down Ctrl-Right Ctrl-Alt-Shift-Left"
    );
    assert_eq!(
        names(b"\x1b[3;5~\x1b[15;2~\x1b[1;5P\x1b[1;6R\x1bO5Q"),
        "Ctrl-Delete Shift-F5 Ctrl-F1 Ctrl-Shift-F3 Ctrl-F2"
    );
    assert_eq!(names(b"\x1b[Z\x1b[27;5;9~\x1b[27;6;65~"), "Shift-Tab Ctrl-Tab Ctrl-Shift-A");
    assert_eq!(names(b"\x1b[97;5u\x1b[13;2u\x1b[27u\x1b[127;3u"), "Ctrl-a Shift-Enter Esc Alt-Backspace");
    assert_eq!(decode(b"\x1b[1;5A"), [TerminalInput::Key(Key::from(KeyCode::Up).control())]);
}

#[test]
fn esc_is_a_key_when_time_is_up_or_another_begins() {
    let mut decoder = KeyDecoder::new();
    assert_eq!(feed(&mut decoder, b"\x1b"), []);
    assert!(decoder.is_waiting());
    assert_eq!(flush(&mut decoder), [TerminalInput::Key(KeyCode::Esc.into())]);
    assert!(!decoder.is_waiting());
    assert_eq!(flush(&mut decoder), []);
    // What comes later is nothing of it.
    assert_eq!(feed(&mut decoder, b"[A").len(), 2);
    assert_eq!(names(b"\x1b\x1b"), "Esc Esc");
    assert_eq!(names(b"\x1b\x1b[A"), "Esc Up");
    assert_eq!(names(b"\x1b["), "Alt-[");
    assert_eq!(names(b"\x1bO"), "Alt-O");
    assert_eq!(decode(b"\x1b[1;"), [TerminalInput::Unknown(b"\x1b[1;".to_vec())]);
}

#[test]
fn the_mouse() {
    let mouse = |action, column, row| {
        TerminalInput::Mouse(Mouse { action, column, row, modifiers: Modifiers::default() })
    };
    use MouseAction::{Drag, Move, Press, Release, ScrollDown, ScrollLeft, ScrollRight, ScrollUp};
    use MouseButton::{Left, Middle, Other, Right};
    assert_eq!(decode(b"\x1b[<0;3;4M\x1b[<0;3;4m"), [mouse(Press(Left), 3, 4), mouse(Release(Left), 3, 4)]);
    assert_eq!(
        decode(b"\x1b[<1;1;1M\x1b[<2;500;300m"),
        [mouse(Press(Middle), 1, 1), mouse(Release(Right), 500, 300)]
    );
    assert_eq!(decode(b"\x1b[<32;5;6M\x1b[<35;5;7M"), [mouse(Drag(Left), 5, 6), mouse(Move, 5, 7)]);
    assert_eq!(decode(b"\x1b[<64;1;2M\x1b[<65;1;2M"), [mouse(ScrollUp, 1, 2), mouse(ScrollDown, 1, 2)]);
    assert_eq!(decode(b"\x1b[<66;1;2M\x1b[<67;1;2M"), [mouse(ScrollLeft, 1, 2), mouse(ScrollRight, 1, 2)]);
    assert_eq!(
        decode(b"\x1b[<128;1;2M\x1b[<129;1;2m"),
        [mouse(Press(Other(8)), 1, 2), mouse(Release(Other(9)), 1, 2)]
    );
    let TerminalInput::Mouse(held) = decode(b"\x1b[<28;9;9M").remove(0) else { panic!("no mouse") };
    assert_eq!(held.modifiers, Modifiers { shift: true, alt: true, control: true });
    assert_eq!((held.action, held.modifiers.to_string()), (Press(Left), "Ctrl-Alt-Shift-".to_owned()));
    for wrong in
        ["\x1b[<0;3M", "\x1b[<0;3;4;5M", "\x1b[<0;a;4M", "\x1b[<0;3;70000M", "\x1b[<999;1;1M", "\x1b[<;;X"]
    {
        let inputs = decode(wrong.as_bytes());
        assert!(matches!(inputs[0], TerminalInput::Unknown(_)), "{wrong:?}: {inputs:?}");
    }
    // The old form, which is not asked for: its three bytes are not taken for keys.
    assert_eq!(
        decode(b"\x1b[M !!q"),
        [TerminalInput::Unknown(b"\x1b[M !!".to_vec()), TerminalInput::Key('q'.into())]
    );
}

#[test]
fn pasted_text_is_not_typed() {
    let paste = |text: &str, is_cut| TerminalInput::Paste { text: text.to_owned(), is_cut };
    let q = TerminalInput::Key('q'.into());
    assert_eq!(decode(b"\x1b[200~ls\r\x03\x1b[201~q"), [paste("ls\r\u{3}", false), q.clone()]);
    assert_eq!(decode(b"\x1b[200~\x1b[201~"), [paste("", false)]);
    // The beginning of the mark is text where it does not go on.
    assert_eq!(decode(b"\x1b[200~\x1b\x1b[2\x1b[201~"), [paste("\x1b\x1b[2", false)]);
    assert_eq!(decode(b"\x1b[200~\x1b[200~x\x1b[201~"), [paste("\x1b[200~x", false)]);
    assert_eq!(decode(b"\x1b[200~\xff\x1b[201~"), [paste("\u{fffd}", false)]);
    // An end without a beginning.
    assert!(matches!(decode(b"\x1b[201~")[0], TerminalInput::Unknown(_)));

    let mut decoder = KeyDecoder::new().paste_limit(5);
    assert_eq!(feed(&mut decoder, "\x1b[200~12345\x1b[201~".as_bytes()), [paste("12345", false)]);
    assert_eq!(feed(&mut decoder, "\x1b[200~1234é\x1b[201~q".as_bytes()), [paste("1234", true), q]);
    // Time does not end it.
    assert_eq!(feed(&mut decoder, b"\x1b[200~12\x1b"), []);
    assert!(!decoder.is_waiting());
    assert_eq!(flush(&mut decoder), []);
    assert_eq!(feed(&mut decoder, b"[201~"), [paste("12", false)]);
}

#[test]
fn focus_and_what_nobody_asked_for() {
    assert_eq!(decode(b"\x1b[I\x1b[O"), [TerminalInput::Focus(true), TerminalInput::Focus(false)]);
    for unknown in
        ["\x1b[?1;2c", "\x1b[24;80R", "\x1b[99~", "\x1b[57399u", "\x1b[97;1:3u", "\x1bOz", "\x1b[[x"]
    {
        assert_eq!(decode(unknown.as_bytes()), [TerminalInput::Unknown(unknown.as_bytes().to_vec())]);
    }
    // What cannot be in a sequence ends it, and is not lost.
    assert_eq!(
        decode(b"\x1b[1;\x03"),
        [TerminalInput::Unknown(b"\x1b[1;".to_vec()), TerminalInput::Key(Key::from('c').control()),]
    );
    assert_eq!(names(b"\x1b[\x1b[A"), format!("{:?} Up", TerminalInput::Unknown(b"\x1b[".to_vec())));
}

#[test]
fn a_sequence_without_an_end_takes_no_memory() {
    let mut decoder = KeyDecoder::new();
    let mut inputs = feed(&mut decoder, b"\x1b[");
    inputs.extend(feed(&mut decoder, &[b'1'; 100_000]));
    assert_eq!(inputs.len(), 1);
    assert!(matches!(&inputs[0], TerminalInput::Unknown(bytes) if bytes.len() == 64));
    // The rest of it is skipped up to its end.
    assert_eq!(feed(&mut decoder, b"~q"), [TerminalInput::Key('q'.into())]);
    // Or until time is up.
    feed(&mut decoder, &[&b"\x1b["[..], &[b';'; 100]].concat());
    assert!(decoder.is_waiting());
    assert_eq!(flush(&mut decoder), []);
    assert_eq!(feed(&mut decoder, b"q"), [TerminalInput::Key('q'.into())]);
}

#[test]
fn what_was_typed_is_not_in_its_debug_text() {
    let mut decoder = KeyDecoder::new();
    feed(&mut decoder, b"\x1b[200~secret");
    assert!(!format!("{decoder:?}").contains("secret"));
}

fn modifiers() -> impl Strategy<Value = Modifiers> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(shift, alt, control)| Modifiers {
        shift,
        alt,
        control,
    })
}

fn bits(modifiers: Modifiers) -> u32 {
    u32::from(modifiers.shift) + 2 * u32::from(modifiers.alt) + 4 * u32::from(modifiers.control)
}

/// Something that a user does, and what a terminal makes of it.
fn deed() -> impl Strategy<Value = (TerminalInput, Vec<u8>)> {
    let arrow = (0..4_usize, modifiers()).prop_map(|(which, modifiers)| {
        let codes = [(KeyCode::Up, 'A'), (KeyCode::Down, 'B'), (KeyCode::Right, 'C'), (KeyCode::Left, 'D')];
        let (code, letter) = codes[which];
        let bytes = format!("\x1b[1;{}{letter}", bits(modifiers) + 1);
        (TerminalInput::Key(Key { code, modifiers }), bytes.into_bytes())
    });
    let character =
        (any::<char>(), any::<bool>()).prop_filter_map("a control character", |(character, alt)| {
            let key = if alt { Key::from(character).alt() } else { Key::from(character) };
            // After ESC these begin a sequence.
            let is_special = character.is_ascii_control() || alt && matches!(character, '[' | 'O');
            let bytes = if alt { format!("\x1b{character}") } else { character.to_string() };
            (!is_special).then(|| (TerminalInput::Key(key), bytes.into_bytes()))
        });
    let click = (1..3000_u16, 1..3000_u16, modifiers()).prop_map(|(column, row, modifiers)| {
        let what =
            u32::from(modifiers.shift) * 4 + u32::from(modifiers.alt) * 8 + u32::from(modifiers.control) * 16;
        let action = MouseAction::Press(MouseButton::Left);
        let bytes = format!("\x1b[<{what};{column};{row}M");
        (TerminalInput::Mouse(Mouse { action, column, row, modifiers }), bytes.into_bytes())
    });
    let paste = "[a-z\r\u{1b}é\\[0-2]{0,40}".prop_filter_map("the mark itself", |text| {
        let bytes = format!("\x1b[200~{text}\x1b[201~").into_bytes();
        (!text.contains("\x1b[201~")).then_some((TerminalInput::Paste { text, is_cut: false }, bytes))
    });
    prop_oneof![arrow, character, click, paste]
}

/// Feeds `stream` in pieces of these lengths, over and over.
fn in_pieces(stream: &[u8], pieces: &[usize]) -> Vec<TerminalInput> {
    let mut decoder = KeyDecoder::new().paste_limit(100);
    let (mut inputs, mut stream, mut lengths) = (Vec::new(), stream, pieces.iter().cycle());
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at((*lengths.next().unwrap()).min(stream.len()));
        inputs.extend(feed(&mut decoder, piece));
        stream = rest;
    }
    inputs.extend(flush(&mut decoder));
    inputs
}

/// Bytes of which sequences are made, and others.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"\x1b".to_vec()),
        2 => Just(b"\x1b[".to_vec()),
        1 => Just(b"\x1bO".to_vec()),
        1 => Just(b"\x1b[<".to_vec()),
        1 => Just(b"\x1b[200~".to_vec()),
        1 => Just(b"\x1b[201~".to_vec()),
        1 => Just(b"\x1b[M".to_vec()),
        4 => "[0-9;:<?]{0,30}".prop_map(String::into_bytes),
        3 => "[@-~]".prop_map(String::into_bytes),
        3 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_done_is_heard_whatever_the_pieces(
        deeds in prop::collection::vec(deed(), 0..30),
        pieces in prop::collection::vec(1usize..20, 1..10),
    ) {
        let stream: Vec<u8> = deeds.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let expected: Vec<_> = deeds.into_iter().map(|(input, _)| input).collect();
        prop_assert_eq!(&in_pieces(&stream, &[usize::MAX]), &expected);
        prop_assert_eq!(&in_pieces(&stream, &[1]), &expected);
        prop_assert_eq!(&in_pieces(&stream, &pieces), &expected);
    }

    #[test]
    fn garbage_is_harmless_and_the_same_in_any_pieces(
        stream in garbage(),
        pieces in prop::collection::vec(1usize..20, 1..10),
    ) {
        let expected = in_pieces(&stream, &[usize::MAX]);
        prop_assert_eq!(&in_pieces(&stream, &[1]), &expected);
        prop_assert_eq!(&in_pieces(&stream, &pieces), &expected);
        for input in &expected {
            if let TerminalInput::Unknown(bytes) = input {
                prop_assert!(!bytes.is_empty() && bytes.len() <= 64);
            }
        }
        // And then a key is a key again: once the pasted text has ended, if there was one.
        let mut decoder = KeyDecoder::new();
        feed(&mut decoder, &stream);
        flush(&mut decoder);
        feed(&mut decoder, b"\x1b[201~");
        prop_assert_eq!(feed(&mut decoder, b"q"), [TerminalInput::Key('q'.into())]);
    }
}
