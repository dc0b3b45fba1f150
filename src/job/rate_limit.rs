//! How fast a job may be.

use std::time::{Duration, Instant};

const NANOSECONDS: u128 = 1_000_000_000;

/// Work of about this time is done at once; the pause comes behind it.
const SLICE_PER_SECOND: u64 = 10;

/// Counts what a job has taken beyond its speed. It may take more when all of that is paid, and is never ahead: what
/// it does not use of its speed is lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateLimit {
    /// Bytes per second; 0 is without a limit.
    speed: u64,
    /// Billionths of bytes taken and not yet paid.
    owed: u128,
    /// Up to when time was counted as payment.
    paid_until: Option<Instant>,
}

impl RateLimit {
    pub(crate) fn new(speed: u64) -> Self {
        RateLimit { speed, ..RateLimit::default() }
    }

    /// What was taken before counts by the old speed up to now, and by the new one from now on.
    pub(crate) fn set_speed(&mut self, speed: u64, now: Instant) {
        self.pay(now);
        self.speed = speed;
        if speed == 0 {
            self.owed = 0;
        }
    }

    /// Takes this many bytes.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) {
        self.pay(now);
        if self.speed > 0 {
            self.owed += u128::from(bytes) * NANOSECONDS;
        }
    }

    /// When more may be taken, if not now.
    pub(crate) fn free_at(&mut self, now: Instant) -> Option<Instant> {
        self.pay(now);
        let nanoseconds = self.owed.checked_div(u128::from(self.speed))? + 1;
        let wait = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        // What is too far away to be an instant is tried again tomorrow.
        (self.owed > 0).then(|| now.checked_add(wait).unwrap_or(now + Duration::from_secs(86400)))
    }

    /// Bytes that may be taken at once.
    pub(crate) fn slice(&self) -> u64 {
        if self.speed == 0 { u64::MAX } else { (self.speed / SLICE_PER_SECOND).max(1) }
    }

    fn pay(&mut self, now: Instant) {
        let passed = self.paid_until.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        self.owed = self.owed.saturating_sub(passed.as_nanos() * u128::from(self.speed));
        self.paid_until = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds that a job takes for this many pieces when it works without any delay of its own.
    fn time(rate_limit: &mut RateLimit, pieces: u64, bytes: u64, start: Instant) -> u128 {
        let mut now = start;
        for _ in 0..pieces {
            now = rate_limit.free_at(now).unwrap_or(now);
            assert_eq!(rate_limit.free_at(now), None);
            rate_limit.take(bytes, now);
        }
        (rate_limit.free_at(now).unwrap_or(now) - start).as_millis()
    }

    #[test]
    fn a_limit_holds() {
        let start = Instant::now();
        assert_eq!(time(&mut RateLimit::new(0), 100, 1 << 40, start), 0);
        assert_eq!(time(&mut RateLimit::new(1 << 20), 1, 0, start), 0);
        for (speed, pieces, bytes, expected) in
            [(1 << 20, 40, 1 << 18, 10_000), (1_000_000, 1000, 1000, 1000), (10, 1, 1000, 100_000)]
        {
            let taken = time(&mut RateLimit::new(speed), pieces, bytes, start);
            assert!(taken.abs_diff(expected) <= 1, "{speed}: {taken} ms");
        }
        assert_eq!(RateLimit::new(1 << 20).slice(), 104_857);
        assert_eq!((RateLimit::new(3).slice(), RateLimit::new(0).slice()), (1, u64::MAX));
    }

    #[test]
    fn what_is_not_used_is_lost() {
        let start = Instant::now();
        let mut rate_limit = RateLimit::new(1000);
        rate_limit.take(1000, start);
        let later = start + Duration::from_secs(60);
        assert_eq!(rate_limit.free_at(later), None);
        assert!(time(&mut rate_limit, 2, 1000, later) >= 2000);
    }

    #[test]
    fn a_new_speed_counts_at_once() {
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let near = |found: Option<Instant>, seconds: f64| {
            let found = (found.unwrap() - start).as_secs_f64();
            assert!((found - seconds).abs() < 0.001, "{found} s, not {seconds} s");
        };
        let mut rate_limit = RateLimit::new(1000);
        rate_limit.take(10_000, start);
        near(rate_limit.free_at(start), 10.0);
        rate_limit.set_speed(4000, after(2.0)); // 8000 bytes are left
        near(rate_limit.free_at(after(2.0)), 4.0);
        rate_limit.set_speed(100, after(3.0)); // 4000 are left
        near(rate_limit.free_at(after(3.0)), 43.0);
        rate_limit.set_speed(0, after(4.0));
        assert_eq!(rate_limit.free_at(after(4.0)), None);
        rate_limit.set_speed(1, after(5.0));
        assert_eq!(rate_limit.free_at(after(5.0)), None);
        // Far beyond what an instant can be.
        rate_limit.take(u64::MAX, after(6.0));
        assert!(rate_limit.free_at(after(6.0)).is_some());
    }
}
