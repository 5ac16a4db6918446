//! Header operations of routes, in the order in which Envoy does them: remove, set, add.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::model::{Header, HeaderOps};

/// Applies operations to a message's headers; `value` makes of a value as it is written the one that is meant, or None where
/// it can be no header's. A value that comes out empty sets and adds nothing.
///
/// Operations on `host` change the authority, which is returned and left to the caller to set; it can be neither removed nor
/// added to. What belongs to the connection and not to the message is left alone.
pub fn apply_header_ops(
    ops: &HeaderOps,
    headers: &mut HeaderMap,
    value: impl Fn(&HeaderValue) -> Option<HeaderValue>,
) -> Option<HeaderValue> {
    let HeaderOps { set, add, remove } = ops;
    let mut authority = None;
    for name in remove.iter().filter(|name| !is_framing(&name.0)) {
        headers.remove(&name.0);
    }
    let mut each = |header: &Header, put: fn(&mut HeaderMap, HeaderName, HeaderValue)| {
        let name = &header.name.0;
        let Some(value) = value(&header.value.0).filter(|value| !value.is_empty()) else { return };
        if name == HOST {
            authority = Some(value);
        } else if !is_framing(name) {
            put(headers, name.clone(), value);
        }
    };
    for header in set {
        each(header, |headers, name, value| {
            headers.insert(name, value);
        });
    }
    for header in add {
        each(header, |headers, name, value| {
            headers.append(name, value);
        });
    }
    authority
}

/// Written by whoever writes the message.
fn is_framing(name: &HeaderName) -> bool {
    [HOST, CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE].contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::header::{Name, Value};

    fn header(name: &str, value: &str) -> Header {
        Header { name: Name(name.parse().expect("a name")), value: Value(value.parse().expect("a value")) }
    }

    /// A header that is removed and set is set; what is added joins what was set; framing stays.
    #[test]
    fn removed_first_then_set_then_added() {
        let ops = HeaderOps {
            set: vec![header("a", "set"), header("host", "other.example:81"), header("te", "x"), header("empty", "%none%")],
            add: vec![header("a", "added"), header("b", "added")],
            remove: ["a", "b", "connection"].map(|name| Name(name.parse().expect("a name"))).into(),
        };
        let mut headers: HeaderMap = [("a", "came"), ("b", "came"), ("connection", "close")]
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .into_iter()
            .collect();
        let plain =
            |value: &HeaderValue| if value == "%none%" { Some(HeaderValue::from_static("")) } else { Some(value.clone()) };
        let authority = apply_header_ops(&ops, &mut headers, plain);
        assert_eq!(authority.expect("it was set"), "other.example:81");
        let mut found: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        found.sort_unstable();
        assert_eq!(found, [("a", "added"), ("a", "set"), ("b", "added"), ("connection", "close")]);
    }
}
