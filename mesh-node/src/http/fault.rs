//! Faults that a route injects: drawn once for each request, delay and abort apart.

use std::time::Duration;

use fastrand::Rng;
use mesh_policy::model::{AbortWith, Fault};

/// What befalls one request: first it waits, then it is answered here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    pub delay: Option<Duration>,
    pub abort: Option<AbortWith>,
}

pub fn draw(fault: &Fault, rng: &mut Rng) -> Drawn {
    let Fault { delay, abort } = fault;
    Drawn {
        delay: delay.filter(|delay| delay.share.hits(rng)).map(|delay| delay.of),
        abort: abort.filter(|abort| abort.share.hits(rng)).map(|abort| abort.with),
    }
}

#[cfg(test)]
mod tests {
    use mesh_policy::model::{Abort, Delay, Percent};

    use super::*;

    fn fault(delay: f64, abort: f64) -> Fault {
        Fault {
            delay: Some(Delay { of: Duration::from_secs(7), share: Percent::of(delay) }),
            abort: Some(Abort { with: AbortWith::Http(500), share: Percent::of(abort) }),
        }
    }

    #[test]
    fn none_and_all_are_exact() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..1000 {
            assert_eq!(draw(&Fault::default(), &mut rng), Drawn::default());
            assert_eq!(draw(&fault(0.0, 0.0), &mut rng), Drawn::default());
            let all = Drawn { delay: Some(Duration::from_secs(7)), abort: Some(AbortWith::Http(500)) };
            assert_eq!(draw(&fault(100.0, 100.0), &mut rng), all);
        }
    }

    #[test]
    fn shares_are_kept_and_drawn_apart() {
        const DRAWS: u32 = 100_000;
        let mut rng = Rng::with_seed(2);
        let (mut delayed, mut aborted, mut both) = (0, 0, 0);
        for _ in 0..DRAWS {
            let Drawn { delay, abort } = draw(&fault(10.0, 20.0), &mut rng);
            delayed += u32::from(delay.is_some());
            aborted += u32::from(abort.is_some());
            both += u32::from(delay.is_some() && abort.is_some());
        }
        // Six standard deviations of a binomial draw.
        for (found, share) in [(delayed, 0.1), (aborted, 0.2), (both, 0.02)] {
            let (mean, deviation) = (f64::from(DRAWS) * share, (f64::from(DRAWS) * share * (1.0 - share)).sqrt());
            assert!((f64::from(found) - mean).abs() < 6.0 * deviation, "{found} of {DRAWS}, not {share}");
        }
    }
}
