//! How far a count may be off by chance alone.

use std::ops::RangeInclusive;

/// One in a billion: what a step of the story may fail by for no reason.
const NEVER: f64 = 1e-9;

/// The counts of successes in `tries` independent tries of probability `share` between which all but one in a billion runs fall
/// (binomial distribution, exact; half of what is left out on either side).
pub(super) fn bounds(tries: u32, share: f64) -> RangeInclusive<u32> {
    let weights: Vec<f64> = logarithms(tries, share).iter().map(|logarithm| logarithm.exp()).collect();
    let tail = |weights: &mut dyn Iterator<Item = &f64>| {
        let mut sum = 0.0;
        let unlikely = weights.take_while(|weight| {
            sum += **weight;
            sum < NEVER / 2.0
        });
        unlikely.count() as u32
    };
    let low = tail(&mut weights.iter());
    let high = tries - tail(&mut weights.iter().rev());
    low..=high
}

/// Of the probabilities of 0, 1 … `tries` successes: they themselves may be too small to multiply.
fn logarithms(tries: u32, share: f64) -> Vec<f64> {
    let odds = (share / (1.0 - share)).ln();
    let mut logarithm = f64::from(tries) * (1.0 - share).ln();
    let mut all = vec![logarithm];
    for count in 1..=tries {
        logarithm += odds + (f64::from(tries - count + 1) / f64::from(count)).ln();
        all.push(logarithm);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_all_but_a_billionth() {
        // Of 40 fair coins at most one shows heads in 41 · 2⁻⁴⁰ = 4 · 10⁻¹¹ of all cases, at most two in 7 · 10⁻¹⁰.
        assert_eq!(bounds(40, 0.5), 2..=38);
        let weights = |tries, share| logarithms(tries, share).into_iter().map(f64::exp).collect::<Vec<f64>>();
        for (tries, share) in [(1000, 0.1), (300, 0.9), (20, 0.5)] {
            let weights = weights(tries, share);
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let bounds = bounds(tries, share);
            let inside: f64 = weights[*bounds.start() as usize..=*bounds.end() as usize].iter().sum();
            assert!(1.0 - inside < 2.0 * NEVER, "{tries} of {share}: {bounds:?} leave {} out", 1.0 - inside);
            let mean = f64::from(tries) * share;
            assert!(f64::from(*bounds.start()) < mean && mean < f64::from(*bounds.end()), "{bounds:?}");
        }
    }
}
