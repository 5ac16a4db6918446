//! `x-request-id`: what ties the logs of all hops of a request together.

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Gives a request an id where it has none; one that it has stays, as at Istio's sidecars. Of several the first stays.
pub fn ensure(headers: &mut HeaderMap, rng: &mut Rng) {
    let mut found = headers.get_all(X_REQUEST_ID).iter();
    match (found.next(), found.next()) {
        (Some(first), None) if !first.is_empty() => {}
        (Some(first), Some(_)) if !first.is_empty() => {
            let first = first.clone();
            headers.insert(X_REQUEST_ID, first);
        }
        _ => drop(headers.insert(X_REQUEST_ID, fresh(rng))),
    }
}

/// A random UUID (RFC 9562, version 4). Ids tell requests apart; they guard nothing, and the generator is not
/// cryptographic.
pub fn fresh(rng: &mut Rng) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = (rng.u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [0; 36];
    let mut nibbles = (0..32).rev().map(|index| DIGITS[(random >> (index * 4)) as usize & 0xf]);
    for (index, byte) in text.iter_mut().enumerate() {
        *byte = match index {
            8 | 13 | 18 | 23 => b'-',
            _ => nibbles.next().expect("32 digits and 4 dashes"),
        };
    }
    HeaderValue::from_bytes(&text).expect("digits and dashes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4() {
        let mut rng = Rng::with_seed(3);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let id = fresh(&mut rng);
            let text = id.to_str().expect("text").to_owned();
            let parts: Vec<_> = text.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{text}");
            assert!(text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')), "{text}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{text}");
            assert!(seen.insert(text));
        }
    }

    #[test]
    fn an_id_that_is_there_stays() {
        let mut rng = Rng::with_seed(4);
        let mut headers = HeaderMap::new();
        ensure(&mut headers, &mut rng);
        let made = headers[X_REQUEST_ID].clone();
        assert_eq!(made.len(), 36);
        ensure(&mut headers, &mut rng);
        assert_eq!(headers[X_REQUEST_ID], made);
        headers.append(X_REQUEST_ID, HeaderValue::from_static("second"));
        ensure(&mut headers, &mut rng);
        assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [&made]);
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
        ensure(&mut headers, &mut rng);
        assert_eq!(headers[X_REQUEST_ID].len(), 36);
    }
}
