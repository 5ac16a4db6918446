//! How much of a client's traffic each group gets while endpoints are ejected.
//!
//! Envoy's priority levels: a group can take `1.4 x` its healthy share (the overprovisioning factor), at most all. The
//! best takes what it can, the next of the rest what it can, and so on; where all together can not take everything, each
//! gets in proportion. Then too, a group whose healthy share is below `minHealthPercent` panics: it uses all its
//! endpoints, ejected or not, on the ground that nearly everybody failing says more about the client than about them.
//! Istio's default of zero turns that off: a client whose endpoints are all ejected gets none.
//!
//! With fixed shares each group's share shrinks by the same measure, and panic is that of the whole.

/// Envoy's overprovisioning factor, in percent.
const OVERPROVISIONING: u64 = 140;

#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) total: u32,
    pub(super) healthy: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Of the sum of all.
    pub(super) load: u64,
    /// The ejected are used too.
    pub(super) panics: bool,
}

/// None: nobody may be used.
pub(super) fn by_preference(groups: &[Count], min_health_percent: u32) -> Option<Vec<Load>> {
    let able: Vec<u64> = groups.iter().map(|group| capacity(*group)).collect();
    let all = able.iter().sum::<u64>().min(100);
    let panics: Vec<bool> = groups.iter().map(|group| all < 100 && below(*group, min_health_percent)).collect();
    if panics.iter().all(|panics| *panics) {
        return Some(groups.iter().map(|group| Load { load: u64::from(group.total), panics: true }).collect());
    }
    if all == 0 {
        return None;
    }
    let mut left = 100;
    let take = |(able, panics): (u64, bool)| {
        let load = (able * 100 / all).min(left);
        left -= load;
        Load { load, panics }
    };
    let mut loads: Vec<Load> = able.into_iter().zip(panics).map(take).collect();
    if let Some(first) = loads.iter_mut().find(|load| load.load > 0) {
        first.load += left;
    }
    Some(loads)
}

/// `groups` with their shares.
pub(super) fn by_share(groups: &[(Count, u32)], min_health_percent: u32) -> Option<Vec<Load>> {
    let sum = groups.iter().fold(Count { total: 0, healthy: 0 }, |sum, (count, _)| Count {
        total: sum.total + count.total,
        healthy: sum.healthy + count.healthy,
    });
    let panics = capacity(sum) < 100 && below(sum, min_health_percent);
    if sum.healthy == 0 && !panics {
        return None;
    }
    let load = |(count, share): &(Count, u32)| {
        let able = if panics { 100 } else { capacity(*count) };
        Load { load: u64::from(*share) * able, panics }
    };
    Some(groups.iter().map(load).collect())
}

/// Percent of the traffic; something, while anybody is healthy.
fn capacity(group: Count) -> u64 {
    let least = u64::from(group.healthy > 0);
    (OVERPROVISIONING * u64::from(group.healthy) / u64::from(group.total.max(1))).clamp(least, 100)
}

fn below(group: Count, percent: u32) -> bool {
    u64::from(group.healthy) * 100 < u64::from(percent) * u64::from(group.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups as `healthy/total`; loads in percent, with `!` where a group panics.
    #[test]
    fn the_next_takes_over_in_proportion() {
        let cases = [
            ("10/10 10/10", 0, Some("100 0")),
            // 1.4 x 80 % and more: the best can still take everything.
            ("8/10 10/10", 0, Some("100 0")),
            // 1.4 x 71.4 %: just not.
            ("5/7 7/7", 0, Some("100 0")),
            ("7/10 10/10", 0, Some("98 2")),
            ("5/10 10/10", 0, Some("70 30")),
            ("0/10 10/10", 0, Some("0 100")),
            ("5/10 1/10 10/10", 0, Some("70 14 16")),
            // 35 and 35 of 100: half each.
            ("1/4 1/4", 0, Some("50 50")),
            ("0/4 1/4", 0, Some("0 100")),
            ("1/3", 0, Some("100")),
            ("1/1000", 0, Some("100")),
            ("0/4", 0, None),
            ("0/4 0/4", 0, None),
            ("1/4", 50, Some("4!")),
            ("3/4", 50, Some("100")),
            ("0/4", 1, Some("4!")),
            ("0/4 0/2", 50, Some("4! 2!")),
            // Panic is off while the groups together can take everything.
            ("1/4 4/4", 50, Some("35 65")),
            // 14 and 70 of 84.
            ("1/10 5/10", 30, Some("17! 83")),
        ];
        for (groups, min_health, wanted) in cases {
            let counts: Vec<Count> = groups.split(' ').map(count).collect();
            let show = |load: &Load| format!("{}{}", load.load, if load.panics { "!" } else { "" });
            let loads = by_preference(&counts, min_health);
            let shown = loads.map(|loads| loads.iter().map(show).collect::<Vec<_>>().join(" "));
            assert_eq!(shown.as_deref(), wanted, "{groups} at {min_health}");
        }
    }

    #[test]
    fn shares_shrink_with_health() {
        let loads = |text: &str, min_health| {
            let groups: Vec<_> = text.split(' ').zip([80, 20]).map(|(group, share)| (count(group), share)).collect();
            by_share(&groups, min_health).map(|loads| loads.iter().map(|load| (load.load, load.panics)).collect::<Vec<_>>())
        };
        assert_eq!(loads("10/10 10/10", 0), Some(vec![(8000, false), (2000, false)]));
        assert_eq!(loads("5/10 10/10", 0), Some(vec![(5600, false), (2000, false)]));
        assert_eq!(loads("0/10 10/10", 0), Some(vec![(0, false), (2000, false)]));
        assert_eq!(loads("0/10 0/10", 0), None);
        assert_eq!(loads("0/10 1/10", 50), Some(vec![(8000, true), (2000, true)]));
    }

    fn count(text: &str) -> Count {
        let (healthy, total) = text.split_once('/').expect("healthy/total");
        Count { healthy: healthy.parse().unwrap(), total: total.parse().unwrap() }
    }
}
