//! One address type for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address as 16 bytes in network order; IPv4 as v4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
///
/// Kept as words, because kernel contexts hand words out and the verifier counts instructions.
#[allow(clippy::derived_hash_with_manual_eq, reason = "the same equality, word by word")]
#[derive(Clone, Copy, Debug, Default, Eq, Hash)]
#[repr(C)]
pub struct Address {
    words_be: [u32; 4],
}

/// What an address needs on the wire: a v4-mapped address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The third word of a v4-mapped address.
const MAPPED_BE: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// `::`, which stands for "none" wherever an address may be missing.
    pub const NONE: Self = Self { words_be: [0; 4] };

    /// From IPv4 in network order, as in `bpf_sock_addr::user_ip4`.
    #[inline(always)]
    pub const fn from_v4_be(word_be: u32) -> Self {
        Self { words_be: [0, 0, MAPPED_BE, word_be] }
    }

    /// From IPv6 in network order, as in `bpf_sock_addr::user_ip6`.
    #[inline(always)]
    pub const fn from_v6_be(words_be: [u32; 4]) -> Self {
        Self { words_be }
    }

    /// The last word: the IPv4 address of a v4-mapped one.
    #[inline(always)]
    pub const fn v4_be(&self) -> u32 {
        self.words_be[3]
    }

    /// All words in network order.
    #[inline(always)]
    pub const fn words_be(&self) -> [u32; 4] {
        self.words_be
    }

    /// IPv4 for a v4-mapped address.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        if self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == MAPPED_BE { Family::V4 } else { Family::V6 }
    }

    /// Whether this is [`Address::NONE`].
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.words_be[0] | self.words_be[1] | self.words_be[2] | self.words_be[3] == 0
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        match self.family() {
            Family::V4 => self.words_be[3] == 0,
            Family::V6 => self.is_none(),
        }
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        match self.family() {
            Family::V4 => self.v4_host() >> 24 == 127,
            Family::V6 => (self.words_be[0] | self.words_be[1] | self.words_be[2]) == 0 && self.words_be[3] == 1_u32.to_be(),
        }
    }

    /// `224.0.0.0/4` or `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        match self.family() {
            Family::V4 => self.v4_host() >> 28 == 0xe,
            Family::V6 => u32::from_be(self.words_be[0]) >> 24 == 0xff,
        }
    }

    /// `255.255.255.255`.
    #[inline(always)]
    pub const fn is_broadcast(&self) -> bool {
        matches!(self.family(), Family::V4) && self.words_be[3] == u32::MAX
    }

    /// `169.254.0.0/16` or `fe80::/10`.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        match self.family() {
            Family::V4 => self.v4_host() >> 16 == 0xa9fe,
            Family::V6 => u32::from_be(self.words_be[0]) >> 22 == 0xfe80 >> 6,
        }
    }

    #[inline(always)]
    const fn v4_host(&self) -> u32 {
        u32::from_be(self.words_be[3])
    }
}

impl PartialEq for Address {
    /// By words: comparing the array would become a call of `bcmp`, which the kernel has not.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        (self.words_be[0] ^ other.words_be[0])
            | (self.words_be[1] ^ other.words_be[1])
            | (self.words_be[2] ^ other.words_be[2])
            | (self.words_be[3] ^ other.words_be[3])
            == 0
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_be(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        let o = ip.octets();
        let word = |at: usize| u32::from_ne_bytes([o[at], o[at + 1], o[at + 2], o[at + 3]]);
        Self::from_v6_be([word(0), word(4), word(8), word(12)])
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Address> for IpAddr {
    /// A v4-mapped address becomes IPv4.
    fn from(address: Address) -> Self {
        let [a, b, c, d] = address.words_be.map(u32::from_be);
        match address.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(d)),
            Family::V6 => {
                IpAddr::V6(Ipv6Addr::from_bits(u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_unmaps() {
        for (text, back) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("fd00::1:2", "fd00::1:2"),
            ("::", "::"),
            ("::1", "::1"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(IpAddr::from(address), back.parse::<IpAddr>().unwrap(), "{text}");
        }
    }

    /// Agrees with the standard library on the edges of every range.
    #[test]
    fn classes_agree_with_the_standard_library() {
        for text in [
            "0.0.0.0",
            "0.0.0.1",
            "10.0.0.1",
            "126.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "1::1",
            "fd00::1",
            "fe7f::1",
            "fe80::",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff00::",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "::fffe:127.0.0.1",
        ] {
            let ip = text.parse::<IpAddr>().unwrap().to_canonical();
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(address.is_unspecified(), ip.is_unspecified(), "{text}");
            assert_eq!(address.is_loopback(), ip.is_loopback(), "{text}");
            assert_eq!(address.is_multicast(), ip.is_multicast(), "{text}");
            assert_eq!(address.is_broadcast(), ip == IpAddr::V4(Ipv4Addr::BROADCAST), "{text}");
            let link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            assert_eq!(address.is_link_local(), link_local, "{text}");
            assert_eq!(address.family() == Family::V4, ip.is_ipv4(), "{text}");
        }
    }
}
