//! The chance by which slices are looked at after a step.

/// Who is looked at, by a chance that no optimizer can foresee.
pub(crate) struct Patrol {
    state: u64,
    /// Elements that were stepped and for which nothing was looked at yet.
    pub(super) stepped: usize,
}

impl Patrol {
    pub(crate) fn new(secret: u64) -> Self {
        Self { state: secret, stepped: 0 }
    }

    /// One of so many; `None` of none. (SplitMix64, Steele, Lea, Flood, OOPSLA 2014. What it chooses never gets anywhere an
    /// optimizer could see.)
    pub(super) fn one_of(&mut self, count: usize) -> Option<usize> {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        (count > 0).then(|| ((u128::from(mixed) * count as u128) >> 64) as usize)
    }
}
