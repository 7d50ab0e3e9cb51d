//! Numbers that look random and are the same each time: `SplitMix64`. Nothing here keeps a secret.

/// A stream of numbers.
pub struct Random(u64);

impl Random {
    /// The stream of these words: others, another stream.
    pub fn new(words: &[&[u8]]) -> Self {
        // FNV-1a, with the length of each word so that their borders count.
        let mut state = 0xcbf2_9ce4_8422_2325_u64;
        for word in words {
            for byte in word.iter().chain(&word.len().to_be_bytes()) {
                state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        Self(state)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let number = self.number().checked_rem(end as u64).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }

    /// One of these; there must be one.
    pub fn one_of<'a, T: ?Sized>(&mut self, some: &[&'a T]) -> &'a T {
        some[self.below(some.len())]
    }

    /// A part of `length` bytes: of up to 4, up to 64 or any length.
    pub fn part(&mut self, length: usize) -> std::ops::Range<usize> {
        let most = match self.below(4) {
            0 | 1 => 4,
            2 => 64,
            _ => length,
        };
        let begin = self.below(length + 1);
        let size = self.below(most.min(length - begin) + 1);
        begin..begin + size
    }
}
