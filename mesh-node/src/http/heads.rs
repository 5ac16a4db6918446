//! Whether the head of a request is being waited for, as the bytes of a connection tell.
//!
//! A connection without a request may be silent for long; one that has begun to ask may not. HTTP/1 is asked for a request's
//! head while none is answered; HTTP/2 may carry other frames at any time, so that frames are told apart.

/// What is read from a client.
#[derive(Debug)]
pub(super) enum Heads {
    /// No HTTP, or not from a client.
    Unwatched,
    /// HTTP/1: whatever comes while no request is answered is of a head.
    Http1,
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
}

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;

impl Frames {
    /// Of a connection whose preface of so many bytes is read with the rest.
    pub(super) fn after(preface: usize) -> Self {
        Self { head: [0; 9], have: 9, left: preface, block: false }
    }

    /// Whether a block of fields is not whole after `read`.
    pub(super) fn read(&mut self, mut read: &[u8]) -> bool {
        while !read.is_empty() {
            if self.have < self.head.len() {
                let taken = read.len().min(self.head.len() - self.have);
                self.head[self.have..self.have + taken].copy_from_slice(&read[..taken]);
                self.have += taken;
                read = &read[taken..];
                if self.have < self.head.len() {
                    break;
                }
                let [high, middle, low, ..] = self.head;
                self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.block |= matches!(self.head[3], HEADERS | CONTINUATION);
            }
            let taken = read.len().min(self.left);
            self.left -= taken;
            read = &read[taken..];
            if self.left == 0 {
                self.ended();
            }
        }
        self.block
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

    #[test]
    fn a_block_is_open_until_its_last_frame_is_whole() {
        let said = [
            b"PRI".to_vec(),
            frame(4, 0, b""),
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, END_HEADERS, b"d"),
            frame(0, 0, b"data"),
            frame(HEADERS, END_HEADERS, b""),
        ];
        let whole: Vec<u8> = said.concat();
        // The first byte that tells is the kind of the first HEADERS; the last one ends the CONTINUATION with END_HEADERS.
        let headers = 3 + 9;
        let (begins, ends) = (headers + 9, headers + 12 + 9 + 10);
        for step in 1..=whole.len() {
            let mut frames = Frames::after(3);
            for (at, chunk) in whole.chunks(step).enumerate() {
                let read = at * step + chunk.len();
                let open = frames.read(chunk);
                assert_eq!(open, read >= begins && read < ends, "{read} bytes by {step}");
            }
        }
    }
}
