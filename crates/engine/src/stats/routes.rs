//! The patterns that figures are counted under, by number: the same for all who use the cache.

use std::collections::HashMap;

/// Patterns and their numbers, 1 and up. 0 stands for none.
#[derive(Debug, Default)]
pub struct Routes {
    patterns: Vec<String>,
    numbers: HashMap<String, u16>,
}

impl Routes {
    /// The number of a pattern, given at its first use; 0 when there is none left.
    pub fn number(&mut self, pattern: &str) -> u16 {
        if let Some(number) = self.numbers.get(pattern) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.patterns.len() + 1) else { return 0 };
        self.patterns.push(pattern.to_owned());
        self.numbers.insert(pattern.to_owned(), number);
        number
    }

    /// Every pattern with its number.
    pub fn all(&self) -> impl Iterator<Item = (u16, &str)> {
        (1..).zip(self.patterns.iter().map(String::as_str))
    }
}
