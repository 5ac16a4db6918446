//! The path of a request, in one form.
//!
//! What [`PathNormalization::Base`] does is what Envoy does with `normalize_path` (Chromium's canonical paths, over RFC
//! 3986 §6.2.2): dot segments away, `\` to `/`, encoded letters, digits, `-`, `.`, `_` and `~` decoded, and encoded what a
//! path may not hold. `//`, `%2F` and all other encodings stay as they are, and so does a `%` that begins none, unless
//! decoding put two hexadecimal digits behind it: then it becomes `%25`, so that nobody behind us decodes twice.
//!
//! In two places we go on where Envoy stops: a path of slashes alone is merged to one, and a dot segment with path
//! parameters is one in every spelling. What comes out is in normal form: doing it again changes nothing.

use std::borrow::Cow;

use crate::model::PathNormalization;

/// The longest path with its query, in bytes.
pub const MAX_PATH: usize = 65_534;

/// Why a path is refused. Answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    #[error("a path of more than {MAX_PATH} bytes")]
    TooLong,
    #[error("a control character in the path")]
    Control,
    #[error("an encoded zero byte (%00) in the path")]
    Nul,
}

/// Brings the path of a request target (`/path?query`) into the form that everything else looks at.
///
/// The query stays as it is; a fragment, which does not belong into a request, is cut. An empty path is `/`; `*` (of
/// OPTIONS) stays, and any other path gets the `/` that it does not begin with. Nothing is allocated where nothing
/// changes.
pub fn normalize_path(path_and_query: &str, how: PathNormalization) -> Result<Cow<'_, str>, BadPath> {
    if path_and_query.len() > MAX_PATH {
        return Err(BadPath::TooLong);
    }
    if path_and_query.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(BadPath::Control);
    }
    let whole = path_and_query.split_once('#').map_or(path_and_query, |(before, _)| before);
    let (path, query) = whole.split_at(whole.find('?').unwrap_or(whole.len()));
    if path.contains("%00") {
        return Err(BadPath::Nul);
    }
    if path == "*" || is_normal(path, how) {
        return Ok(Cow::Borrowed(whole));
    }
    let mut out = match how {
        PathNormalization::None => with_slash(path),
        PathNormalization::Base | PathNormalization::MergeSlashes => canonical(path),
        PathNormalization::DecodeAndMergeSlashes => canonical(&decode_slashes(path)),
    };
    if how >= PathNormalization::MergeSlashes {
        out = merge_slashes(out);
    }
    if out == path {
        return Ok(Cow::Borrowed(whole));
    }
    out.push_str(query);
    Ok(Cow::Owned(out))
}

/// Whether a path surely is in normal form; a path with an encoding may be, and is looked at further.
fn is_normal(path: &str, how: PathNormalization) -> bool {
    let merges = how >= PathNormalization::MergeSlashes;
    let mut previous = None;
    path.starts_with('/')
        && (how == PathNormalization::None
            || path.bytes().all(|byte| {
                let after_slash = previous.replace(byte) == Some(b'/');
                is_kept(byte) && !(after_slash && (byte == b'.' || merges && byte == b'/'))
            }))
}

/// Whether a byte may stand in a normal path as it is.
fn is_kept(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/[]".contains(&byte)
}

/// Whether a byte is never left encoded: the unreserved characters of RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn with_slash(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    out.push_str(path);
    out
}

fn canonical(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut writer = Writer::new(path.len());
    let mut at = usize::from(bytes.first().is_some_and(|byte| is_slash(*byte)));
    while let Some(&byte) = bytes.get(at) {
        match (byte, encoded_at(bytes, at)) {
            (_, Some(decoded)) => {
                if is_unreserved(decoded) {
                    writer.out.push(char::from(decoded));
                } else {
                    // As it came, for an application may tell %2f from %2F.
                    writer.out.push_str(&path[at..at + 3]);
                }
                at += 2;
            }
            (b'%', None) => writer.stray_percent(),
            (b'/' | b'\\', None) => writer.slash(),
            (kept, None) if is_kept(kept) => writer.out.push(char::from(kept)),
            (foreign, None) => writer.encode(foreign),
        }
        at += 1;
    }
    writer.finish()
}

fn is_slash(byte: u8) -> bool {
    byte == b'/' || byte == b'\\'
}

/// The byte that `%XX` at a position stands for.
fn encoded_at(bytes: &[u8], at: usize) -> Option<u8> {
    let &[b'%', high, low] = bytes.get(at..at + 3)? else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// A path in the making: ASCII, beginning with a slash.
struct Writer {
    out: String,
    /// Where the segment that is being written begins.
    segment: usize,
    /// Each `%` that began no encoding.
    strays: Vec<usize>,
}

impl Writer {
    fn new(length: usize) -> Self {
        let mut out = String::with_capacity(length + 1);
        out.push('/');
        Self { out, segment: 1, strays: Vec::new() }
    }

    fn stray_percent(&mut self) {
        self.strays.push(self.out.len());
        self.out.push('%');
    }

    fn encode(&mut self, byte: u8) {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("four bits").to_ascii_uppercase();
        self.out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
    }

    fn slash(&mut self) {
        if !self.takes_dots() {
            self.out.push('/');
        }
        self.segment = self.out.len();
    }

    /// Whether the segment was a dot segment, which has been carried out with its slash. `..;x` is one too: servers that
    /// know path parameters take it so.
    fn takes_dots(&mut self) -> bool {
        let segment = &self.out[self.segment..];
        let parent = match segment.split_once(';').map_or(segment, |(name, _)| name) {
            "." => self.segment,
            // The slash before the one that this segment follows; there is none above the first.
            ".." => self.out[..self.segment - 1].rfind('/').map_or(1, |slash| slash + 1),
            _ => return false,
        };
        self.out.truncate(parent);
        self.strays.retain(|at| *at < parent);
        true
    }

    fn finish(mut self) -> String {
        self.takes_dots();
        for at in self.strays.into_iter().rev() {
            if encoded_at(self.out.as_bytes(), at).is_some() {
                self.out.insert_str(at + 1, "25");
            }
        }
        self.out
    }
}

/// `%2F` and `%5C` in both cases.
fn decode_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, encoded) = rest.split_at(at);
        out.push_str(before);
        let slash = encoded_at(encoded.as_bytes(), 0).filter(|byte| is_slash(*byte));
        out.push(slash.map_or('%', char::from));
        rest = &encoded[if slash.is_some() { 3 } else { 1 }..];
    }
    out.push_str(rest);
    out
}

fn merge_slashes(path: String) -> String {
    if !path.contains("//") {
        return path;
    }
    let mut previous = None;
    path.chars().filter(|next| previous.replace(*next) != Some('/') || *next != '/').collect()
}
