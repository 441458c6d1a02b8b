//! Lines, without a reactor: whatever the pieces that bytes come in, the lines are the same.

#![allow(clippy::unwrap_used, reason = "what is unexpected here is a failed test")]

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::ControlFlow;

use proptest::prelude::*;
use twistor_protocols::{Codec, Decoded, FrameBuffer, LineCodec, LineFrame, Output};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Line(Vec<u8>),
    TooLong(Vec<u8>),
}

impl From<LineFrame<'_>> for Seen {
    fn from(frame: LineFrame<'_>) -> Self {
        match frame {
            LineFrame::Line(line) => Self::Line(line.to_vec()),
            LineFrame::TooLong(start) => Self::TooLong(start.to_vec()),
            LineFrame::Raw(data) => panic!("raw data {data:?}"),
        }
    }
}

/// Feeds `stream` in pieces of these lengths, over and over. After every `stop_every`th frame the receiver
/// breaks, and what is returned is fed again, as a paused connection does.
fn decode(codec: &LineCodec, stream: &[u8], pieces: &[usize], stop_every: usize) -> Vec<Seen> {
    let codec = RefCell::new(codec.clone());
    let mut buffer = FrameBuffer::new();
    let mut seen = Vec::new();
    let mut lengths = pieces.iter().cycle();
    let mut stream = stream;
    while !stream.is_empty() {
        let (piece, later) = stream.split_at((*lengths.next().unwrap()).min(stream.len()));
        stream = later;
        let mut piece = piece.to_vec();
        while !piece.is_empty() {
            let fed = buffer.feed(&codec, &piece, |frame| {
                seen.push(frame.into());
                if seen.len() % stop_every == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            piece = fed.unwrap();
        }
    }
    seen
}

/// The same, as simple as it can be said.
fn split(stream: &[u8], delimiter: &[u8], bare_newline: bool, max_length: usize) -> Vec<Seen> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < stream.len() {
        at += 1;
        let line = &stream[start..at];
        let content =
            line.strip_suffix(delimiter).or(if bare_newline { line.strip_suffix(b"\n") } else { None });
        if let Some(content) = content {
            lines.push(if content.len() <= max_length {
                Seen::Line(content.to_vec())
            } else {
                Seen::TooLong(content[..max_length].to_vec())
            });
            start = at;
        }
    }
    let unfinished = &stream[start..];
    if unfinished.len() >= max_length + delimiter.len() {
        lines.push(Seen::TooLong(unfinished[..max_length].to_vec()));
    }
    lines
}

fn codecs() -> impl Strategy<Value = (LineCodec, &'static [u8], bool)> {
    prop_oneof![
        Just((LineCodec::new(), &b"\r\n"[..], true)),
        Just((LineCodec::new().delimiter(&b"\r\n"[..]), &b"\r\n"[..], false)),
        Just((LineCodec::new().delimiter(&b"\n"[..]), &b"\n"[..], false)),
        Just((LineCodec::new().delimiter(&b"\n\r\n"[..]), &b"\n\r\n"[..], false)),
        Just((LineCodec::new().delimiter(&b"\n\n"[..]), &b"\n\n"[..], false)),
    ]
}

/// Bytes that make delimiters, and halves of them, likely.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![3 => Just(b'a'), 2 => Just(b'\r'), 2 => Just(b'\n'), 1 => any::<u8>()],
        0..200,
    )
}

/// Content that shows when a byte is lost, doubled or moved.
fn alphabet(length: usize) -> Vec<u8> {
    (b'a'..=b'y').cycle().take(length).collect()
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_the_pieces(
        (codec, delimiter, bare_newline) in codecs(),
        max_length in 0usize..12,
        stream in stream(),
        pieces in prop::collection::vec(1usize..40, 1..10),
        stop_every in prop_oneof![Just(usize::MAX), 1usize..5],
    ) {
        let codec = codec.max_length(max_length);
        let expected = split(&stream, delimiter, bare_newline, max_length);
        prop_assert_eq!(&decode(&codec, &stream, &[64 * 1024], usize::MAX), &expected);
        prop_assert_eq!(&decode(&codec, &stream, &[1], stop_every), &expected);
        prop_assert_eq!(&decode(&codec, &stream, &pieces, stop_every), &expected);
    }

    #[test]
    fn long_lines_do_not_depend_on_the_pieces(
        lengths in prop::collection::vec(0usize..20_000, 1..12),
        pieces in prop::collection::vec(1usize..5_000, 1..10),
    ) {
        let stream: Vec<u8> =
            lengths.iter().flat_map(|length| [alphabet(*length), b"\r\n".to_vec()].concat()).collect();
        let expected = split(&stream, b"\r\n", true, 16 * 1024);
        prop_assert_eq!(&decode(&LineCodec::new(), &stream, &[64 * 1024], usize::MAX), &expected);
        prop_assert_eq!(&decode(&LineCodec::new(), &stream, &pieces, 2), &expected);
    }

    #[test]
    fn what_is_encoded_is_decoded(lines in prop::collection::vec("[a-z ]{0,40}", 0..20)) {
        let mut codec = LineCodec::new();
        let mut wire = Vec::new();
        for line in &lines {
            let Ok(()) = codec.encode(line.as_bytes(), &mut wire);
        }
        let expected: Vec<Seen> = lines.into_iter().map(|line| Seen::Line(line.into_bytes())).collect();
        prop_assert_eq!(decode(&codec, &wire, &[7], usize::MAX), expected);
    }
}

#[test]
fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
    let limited = LineCodec::new().max_length(4);
    for pieces in [1, 3, 64 * 1024] {
        let lines = decode(
            &limited,
            b"abc\r\nabcd\r\nabcd\nabcde\r\nabcde\nabcdefghijkl\r\nend\n",
            &[pieces],
            usize::MAX,
        );
        let too_long = Seen::TooLong(b"abcd".to_vec());
        assert_eq!(
            lines,
            [
                Seen::Line(b"abc".to_vec()),
                Seen::Line(b"abcd".to_vec()),
                Seen::Line(b"abcd".to_vec()),
                too_long.clone(),
                too_long.clone(),
                too_long,
                Seen::Line(b"end".to_vec()),
            ]
        );
    }
}

#[test]
fn a_line_within_one_chunk_is_not_copied() {
    let codec = RefCell::new(LineCodec::new());
    let chunk = b"one\r\ntwo\r\n";
    let inside = chunk.as_ptr_range();
    let mut lines = 0;
    let fed = FrameBuffer::new().feed(&codec, chunk, |frame| {
        let LineFrame::Line(line) = frame else { panic!("{frame:?}") };
        assert!(inside.contains(&line.as_ptr()));
        lines += 1;
        ControlFlow::Continue(())
    });
    assert!(fed.unwrap().is_empty());
    assert_eq!(lines, 2);
}

#[test]
fn only_about_as_much_as_completes_a_line_is_copied() {
    let codec = RefCell::new(LineCodec::new());
    let mut buffer = FrameBuffer::new();
    let ignore = |_: LineFrame<'_>| ControlFlow::Continue(());
    buffer.feed(&codec, b"beg", ignore).unwrap();
    let mut chunk = b"inning\r\n".to_vec();
    chunk.extend(b"x".repeat(1000));
    chunk.extend(b"\r\nlast\r\n");
    let inside = chunk.as_ptr_range();
    let mut lines = Vec::new();
    let fed = buffer.feed(&codec, &chunk, |frame| {
        let LineFrame::Line(line) = frame else { panic!("{frame:?}") };
        lines.push((line.len(), inside.contains(&line.as_ptr())));
        ControlFlow::Continue(())
    });
    fed.unwrap();
    assert_eq!(lines, [(9, false), (1000, true), (4, true)]);
}

/// Never finds a frame.
struct Endless;

impl Codec for Endless {
    type Frame<'a> = &'a [u8];
    type Out<'a> = &'a [u8];
    type Error = Infallible;

    fn decode<'a>(&mut self, _: &'a [u8], _: usize) -> Result<Decoded<&'a [u8]>, Infallible> {
        Ok(Decoded::Incomplete)
    }

    fn encode(&mut self, frame: &[u8], out: &mut dyn Output) -> Result<(), Infallible> {
        out.put(frame);
        Ok(())
    }

    fn limit(&self) -> usize {
        1000
    }
}

#[test]
fn a_frame_that_does_not_end_is_an_error_at_the_limit() {
    for piece in [1, 300, 1000] {
        let codec = RefCell::new(Endless);
        let mut buffer = FrameBuffer::new();
        let mut feed = |bytes: &[u8]| buffer.feed(&codec, bytes, |_| ControlFlow::Continue(()));
        for piece in vec![0; 1000].chunks(piece) {
            assert!(feed(piece).unwrap().is_empty());
        }
        let error = feed(&[0]).unwrap_err();
        assert_eq!(error.to_string(), "a frame of the peer is longer than 1000 bytes");
    }
}
