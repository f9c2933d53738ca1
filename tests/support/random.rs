//! Random numbers that can be had again.

/// Small random numbers from a printed seed.
pub struct Random(u64);

impl Random {
    /// From `DROVER_SEED`, or from the clock; printed, so that a failure can be run again.
    pub fn seeded(test: &str) -> Self {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("DROVER_SEED").ok().map_or_else(clock, |seed| seed.parse().unwrap());
        println!("{test}: DROVER_SEED={seed}");
        Self(seed)
    }

    /// The next one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0) % end
    }
}

/// A number that looks like nothing of `number`.
pub fn scramble(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
