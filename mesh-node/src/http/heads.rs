//! What the bytes of a connection tell before they are read: whether the head of a request is being waited for, and what is
//! better not read at all.
//!
//! A connection without a request may be silent for long; one that has begun to ask may not. HTTP/1 is asked for a request's
//! head while none is answered; HTTP/2 may carry other frames at any time, so that frames are told apart.
//!
//! **Empty DATA.** h2 counts frames of DATA that carry nothing and end nothing over the whole life of a connection, and at the
//! hundredth ends it with all of its streams. Servers send one here and there (an answer without a body that is written as
//! a body of no bytes), and a connection to them carries thousands of requests. Such a frame is made one of a kind that nobody
//! knows, which is ignored (RFC 9113, §4.1): it means as little. More than [`MOST_EMPTY`] of them in a row are a flood, and stay
//! what they are.

/// What is looked for in what is read.
#[derive(Debug)]
pub(super) enum Heads {
    /// No HTTP, or none that is looked at.
    Unwatched,
    /// HTTP/1 of a client: whatever comes while no request is answered is of a head.
    Http1,
    /// HTTP/2 of either side.
    Http2(Frames),
}

/// Where HTTP/2 stands: within a block of fields (RFC 9113, §4.3), or not.
#[derive(Debug)]
pub(super) struct Frames {
    /// Of the frame's own head (§4.1), as far as it has come.
    head: [u8; 9],
    have: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// A block has been begun, and its last frame has not come whole.
    block: bool,
    /// Frames of DATA without any since the last frame with some.
    empty: u32,
}

/// What [`Frames::read`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// A block of fields is not whole.
    pub(super) in_block: bool,
    /// The last byte is to be read again together with the next one, which says what it means.
    pub(super) again: bool,
}

/// The kind of frame that is [read again](Read::again).
pub(super) const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
/// Of no kind that anybody has defined (§11.2).
const IGNORED: u8 = 0xf0;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// Where a frame's head says its kind.
const KIND: usize = 3;

/// So many frames of DATA in a row may carry nothing.
const MOST_EMPTY: u32 = 100;

impl Frames {
    /// Of a connection whose preface of so many bytes is read with the rest.
    pub(super) fn after(preface: usize) -> Self {
        Self { head: [0; 9], have: 9, left: preface, block: false, empty: 0 }
    }

    /// Follows what is read, and changes what is better ignored.
    pub(super) fn read(&mut self, mut read: &mut [u8]) -> Read {
        while !read.is_empty() {
            if self.have < self.head.len() {
                let begun = self.have;
                let taken = read.len().min(self.head.len() - begun);
                self.head[begun..begun + taken].copy_from_slice(&read[..taken]);
                self.have += taken;
                if self.have == KIND + 1 && self.head[..=KIND] == [0, 0, 0, DATA] {
                    self.have = KIND;
                    return Read { in_block: self.block, again: true };
                }
                if begun <= KIND && self.have > KIND + 1 && self.carries_nothing() {
                    read[KIND - begun] = IGNORED;
                }
                read = &mut read[taken..];
                if self.have < self.head.len() {
                    break;
                }
                let [high, middle, low, ..] = self.head;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.block |= matches!(self.head[KIND], HEADERS | CONTINUATION);
            }
            let taken = read.len().min(self.left);
            self.left -= taken;
            read = &mut read[taken..];
            if self.left == 0 {
                self.ended();
            }
        }
        Read { in_block: self.block, again: false }
    }

    /// What was to be read again was read as it is.
    pub(super) fn passed(&mut self) {
        self.have = KIND + 1;
    }

    /// Of a head that has come as far as its flags: whether nobody misses the frame.
    fn carries_nothing(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.head;
        if [high, middle, low] != [0, 0, 0] {
            self.empty = 0;
            return false;
        }
        if kind != DATA || flags & (END_STREAM | PADDED) != 0 || self.block {
            return false;
        }
        self.empty = self.empty.saturating_add(1);
        self.empty <= MOST_EMPTY
    }

    fn ended(&mut self) {
        let [_, _, _, kind, flags, ..] = self.head;
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.block = false;
        }
        (self.head, self.have) = ([0; 9], 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Reads in pieces of so many bytes, as a connection does; what comes out, and whether a block was open after each piece.
    fn through(frames: &mut Frames, said: &[u8], step: usize) -> (Vec<u8>, Vec<bool>) {
        let (mut out, mut open, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in said.chunks(step) {
            let mut piece = [&held[..], chunk].concat();
            let read = frames.read(&mut piece);
            held = if read.again { piece.split_off(piece.len() - 1) } else { Vec::new() };
            out.extend(piece);
            open.push(read.in_block);
        }
        assert!(held.is_empty() || held == [DATA]);
        out.extend(held);
        (out, open)
    }

    #[test]
    fn a_block_is_open_until_its_last_frame_is_whole() {
        let said = [
            b"PRI".to_vec(),
            frame(4, 0, b""),
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, END_HEADERS, b"d"),
            frame(DATA, 0, b"data"),
            frame(HEADERS, END_HEADERS, b""),
        ];
        let whole: Vec<u8> = said.concat();
        // The first byte that tells is the kind of the first HEADERS; the last one ends the CONTINUATION with END_HEADERS.
        let headers = 3 + 9;
        let (begins, ends) = (headers + 9, headers + 12 + 9 + 10);
        for step in 1..=whole.len() {
            let (out, open) = through(&mut Frames::after(3), &whole, step);
            assert_eq!(out, whole, "by {step}");
            for (at, open) in open.into_iter().enumerate() {
                let read = whole.len().min((at + 1) * step);
                assert_eq!(open, read >= begins && read < ends, "{read} bytes by {step}");
            }
        }
    }

    #[test]
    fn data_that_carries_and_ends_nothing_is_ignored_however_it_comes() {
        let empty = frame(DATA, 0, b"");
        let around = [frame(HEADERS, END_HEADERS, b"\0\0\0\0\0"), frame(DATA, 0, b"\0\0\0\0"), frame(DATA, END_STREAM, b"")];
        let said = [&around[0], &empty, &around[1], &empty, &empty, &around[2]].map(|frame| &frame[..]).concat();
        let ignored = frame(IGNORED, 0, b"");
        let expected = [&around[0], &ignored, &around[1], &ignored, &ignored, &around[2]].map(|frame| &frame[..]).concat();
        for step in 1..=said.len() {
            assert_eq!(through(&mut Frames::after(0), &said, step).0, expected, "by {step}");
        }
    }

    #[test]
    fn a_flood_of_them_stays_one() {
        let most = MOST_EMPTY as usize;
        let mut frames = Frames::after(0);
        let (out, _) = through(&mut frames, &frame(DATA, 0, b"").repeat(most + 2), 4096);
        let kinds: Vec<u8> = out.chunks(9).map(|head| head[KIND]).collect();
        assert_eq!(kinds, [vec![IGNORED; most], vec![DATA; 2]].concat());
        // What carries something ends it; another frame without payload does not.
        for (between, kind) in [(frame(4, 0, b""), DATA), (frame(DATA, 0, b"x"), IGNORED)] {
            let said = [between, frame(DATA, 0, b"")].concat();
            let (out, _) = through(&mut frames, &said, 4096);
            assert_eq!(out[out.len() - 9 + KIND], kind);
        }
        // Within a block of fields it is an error, and stays one.
        let (out, _) = through(&mut Frames::after(0), &[frame(HEADERS, 0, b"x"), frame(DATA, 0, b"")].concat(), 4096);
        assert_eq!(out[10 + KIND], DATA);
    }
}
