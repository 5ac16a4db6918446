//! Why a request did not go the usual way, in Envoy's short form (`%RESPONSE_FLAGS%`).

use std::{borrow::Cow, fmt};

/// A set of flags; none is written `-`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[doc = $doc:literal])+ $name:ident = $short:literal @ $bit:literal;)+) => {
        impl ResponseFlags {
            $($(#[doc = $doc])+ pub const $name: Self = Self(1 << $bit);)+

            /// Every flag with what is written for it, in the order in which several are written (Envoy's).
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$name, $short),)+];
        }
    };
}

flags! {
    /// Health check failed at the node itself.
    LOCAL_HEALTH_FAILED = "LH" @ 0;
    /// No healthy endpoint.
    NO_HEALTHY_UPSTREAM = "UH" @ 1;
    /// Timeout of the whole request.
    UPSTREAM_TIMEOUT = "UT" @ 2;
    /// Reset by the proxy.
    LOCAL_RESET = "LR" @ 3;
    /// Reset by the endpoint.
    UPSTREAM_RESET = "UR" @ 4;
    /// No connection to the endpoint.
    UPSTREAM_CONNECT_FAILURE = "UF" @ 5;
    /// The endpoint closed the connection.
    UPSTREAM_CLOSED = "UC" @ 6;
    /// A circuit breaker is open.
    UPSTREAM_OVERFLOW = "UO" @ 7;
    /// No route.
    NO_ROUTE = "NR" @ 8;
    /// Delayed by a fault.
    DELAY_INJECTED = "DI" @ 9;
    /// Aborted by a fault.
    FAULT_INJECTED = "FI" @ 10;
    /// Rate limited.
    RATE_LIMITED = "RL" @ 11;
    /// Refused by an external authorizer.
    UNAUTHORIZED = "UAEX" @ 12;
    /// The rate limit service failed.
    RATE_LIMIT_ERROR = "RLSE" @ 13;
    /// The client went away.
    DOWNSTREAM_CLOSED = "DC" @ 14;
    /// All tries are used up.
    RETRY_LIMIT = "URX" @ 15;
    /// Nothing moved for too long.
    STREAM_IDLE = "SI" @ 16;
    /// A header that is checked strictly is not right.
    INVALID_HEADER = "IH" @ 17;
    /// The client broke the protocol.
    DOWNSTREAM_PROTOCOL = "DPE" @ 18;
    /// The stream lived for as long as it may.
    MAX_DURATION = "UMSDR" @ 19;
    /// The endpoint broke the protocol.
    UPSTREAM_PROTOCOL = "UPE" @ 20;
    /// No such service, or no such subset.
    NO_CLUSTER = "NC" @ 21;
    /// The proxy has more to do than it can.
    OVERLOAD = "OM" @ 22;
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As `response.flags` of expressions: Envoy's bits.
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// As in the `response_flags` label.
    pub fn label(self) -> Cow<'static, str> {
        let mut set = Self::ALL.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, short)| *short);
        match (set.next(), set.next()) {
            (None, _) => "-".into(),
            (Some(only), None) => only.into(),
            (Some(first), Some(second)) => set.fold(format!("{first},{second}"), |all, next| all + "," + next).into(),
        }
    }
}

impl std::ops::BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, more: Self) {
        *self = self.with(more);
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_flags_are_joined_in_a_fixed_order() {
        let both = ResponseFlags::RETRY_LIMIT.with(ResponseFlags::UPSTREAM_CONNECT_FAILURE);
        assert_eq!(both.to_string(), "UF,URX");
        assert_eq!(both.with(ResponseFlags::DELAY_INJECTED).to_string(), "UF,DI,URX");
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        assert!(both.contains(ResponseFlags::RETRY_LIMIT) && !both.contains(ResponseFlags::NO_ROUTE));
    }

    #[test]
    fn every_flag_has_its_own_bit_and_name() {
        let bits: std::collections::HashSet<_> = ResponseFlags::ALL.iter().map(|(flag, _)| *flag).collect();
        let names: std::collections::HashSet<_> = ResponseFlags::ALL.iter().map(|(_, name)| *name).collect();
        assert_eq!((bits.len(), names.len()), (ResponseFlags::ALL.len(), ResponseFlags::ALL.len()));
    }
}
