//! Where connections come from: addresses, and the networks that they are in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Lengths of the networks in which sources are compared, from the widest to the source itself, of IPv6. A provider has 32
/// bits, a customer usually 48 to 64.
const LENGTHS_V6: [u32; 3] = [32, 48, 64];

/// Of IPv4.
const LENGTHS_V4: [u32; 3] = [16, 24, 32];

/// Levels of networks.
const LEVELS: usize = LENGTHS_V6.len();

/// Where a connection comes from: an IPv4 address, or the network of 64 bits of an IPv6 address, within which its owner
/// has as many as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(address.to_canonical()).within(LEVELS - 1)
    }

    /// The network that it is in.
    fn within(self, level: usize) -> Self {
        Self(match self.0 {
            IpAddr::V4(address) => {
                IpAddr::from((address.to_bits() & (u32::MAX << (u32::BITS - LENGTHS_V4[level]))).to_be_bytes())
            }
            IpAddr::V6(address) => {
                IpAddr::from(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (u128::BITS - LENGTHS_V6[level]))))
            }
        })
    }
}

/// Of sources with so many places each, one with most of the network that has most.
pub(super) fn heaviest(sources: &[(Source, usize)]) -> Option<Source> {
    let mut sources = sources.to_vec();
    for level in 0..LEVELS {
        let (network, _) = heaviest_network(&sources, level)?;
        sources.retain(|(source, _)| source.within(level) == network);
    }
    sources.first().map(|(source, _)| *source)
}

/// As [`heaviest`], where its network, or it within the network that both are in, has more than the newcomer would have.
pub(super) fn heavier_than(newcomer: Source, sources: &[(Source, usize)]) -> Option<Source> {
    let mut sources = sources.to_vec();
    for level in 0..LEVELS {
        let (network, count) = heaviest_network(&sources, level)?;
        let of_newcomer = |(source, _): &&(Source, usize)| source.within(level) == newcomer.within(level);
        let own: usize = sources.iter().filter(of_newcomer).map(|(_, count)| count).sum();
        if network != newcomer.within(level) && count > own + 1 {
            sources.retain(|(source, _)| source.within(level) == network);
            return heaviest(&sources);
        }
        sources.retain(|(source, _)| source.within(level) == newcomer.within(level));
    }
    None
}

/// The network of a level that has most, and how many.
fn heaviest_network(sources: &[(Source, usize)], level: usize) -> Option<(Source, usize)> {
    let mut networks: HashMap<Source, usize> = HashMap::new();
    for (source, count) in sources {
        *networks.entry(source.within(level)).or_default() += count;
    }
    networks.into_iter().max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn networks_are_compared_before_what_is_in_them() {
        // One network with many small ones, and a single address with more than any of those.
        let many: Vec<_> = (0..50).map(|subnet| (source(&format!("2001:db8:7:{subnet:x}::1")), 1)).collect();
        let sources = [many, vec![(source("192.0.2.1"), 3)]].concat();
        let is_of_many = |found: Option<Source>| found.is_some_and(|found| found.within(1) == source("2001:db8:7::"));
        assert!(is_of_many(heaviest(&sources)));
        assert!(is_of_many(heavier_than(source("198.51.100.1"), &sources)));
        assert!(is_of_many(heavier_than(source("192.0.2.1"), &sources)));
        // Another of the same customer finds nobody who has more.
        assert_eq!(heavier_than(source("2001:db8:7:ffff::1"), &sources), None);
        assert_eq!(heavier_than(source("192.0.2.9"), &[(source("192.0.2.1"), 3)]), Some(source("192.0.2.1")));
        assert_eq!(heavier_than(source("192.0.2.9"), &[(source("192.0.2.1"), 1)]), None);
        assert_eq!((heaviest(&[]), heavier_than(source("192.0.2.1"), &[])), (None, None));
    }
}
