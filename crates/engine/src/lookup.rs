//! Guesses how a text goes on, from where it has been before.
//!
//! The pairs of neighbouring tokens of a text are kept in chains, as deflate keeps what it has seen: from the
//! last pair of the text one gets to the places where it stood before, latest first. A few of them are looked at,
//! and the one before which most tokens agree is where the text is taken to go on. A place that was right stays
//! the guess for as long as it is, so that a passage that is copied is followed without looking again.
//!
//! Promise: a guess takes the same few comparisons however long the text is, and a text is taken up in parts of
//! the caller's choice. Every guess is looked up in the text itself: what a chain mixes up costs a comparison.
//!
//! Invariant: knows nothing of models. What is guessed is not to be believed.

/// The places of one text that only grows.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// For each class of pairs, one after the position of its last pair's second token; 0 if there was none.
    heads: Vec<u32>,
    /// For each position taken up, what its class' head was before it.
    earlier: Vec<u32>,
    /// What was found when the text was so long.
    followed: Option<(Found, u32)>,
}

/// A place at which a text stood before as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Position of the token that came next.
    pub(crate) next: u32,
    /// Tokens before it that are the text's last ones; more may agree.
    pub(crate) length: u32,
}

impl Lookup {
    /// Takes up at most `most` more tokens of `text`; whether that was all of it.
    pub(crate) fn learn(&mut self, text: &[u32], most: usize) -> bool {
        if self.heads.is_empty() {
            let classes = (text.len() + EXPECTED_GROWTH).clamp(LEAST_CLASSES, MAX_CLASSES);
            self.heads = vec![0; classes.next_power_of_two()];
        }
        // The last pair is what is looked for: it is not a place where it stood before.
        let end = text.len().saturating_sub(1);
        let from = self.earlier.len();
        for at in from..end.min(from.saturating_add(most)) {
            let earlier = match at.checked_sub(1) {
                Some(before) => {
                    let class = self.class(text[before], text[at]);
                    std::mem::replace(&mut self.heads[class], at as u32 + 1)
                }
                None => 0,
            };
            self.earlier.push(earlier);
        }
        self.earlier.len() >= end
    }

    /// Where `text` stood before as it stands now, as far as it was taken up.
    pub(crate) fn find(&mut self, text: &[u32]) -> Option<Found> {
        let best = self.follow(text).or_else(|| self.search(text));
        self.followed = best.map(|found| (found, text.len() as u32));
        best
    }

    /// The last place, if the text went on as it did there and that is better than what a search would find.
    fn follow(&self, text: &[u32]) -> Option<Found> {
        let (Found { next, length }, then) = self.followed?;
        let grown = text.len().checked_sub(then as usize)?;
        let there = text.get(next as usize..next as usize + grown)?;
        let found = Found { next: next + grown as u32, length: length + grown as u32 };
        (found.length >= ENOUGH && there == &text[then as usize..]).then_some(found)
    }

    fn search(&self, text: &[u32]) -> Option<Found> {
        let [.., first, second] = *text else { return None };
        let mut next = *self.heads.get(self.class(first, second))?;
        let mut best = None;
        for _ in 0..MAX_LINKS {
            if next == 0 {
                break;
            }
            let length = agreeing(&text[..next as usize], text);
            if length >= LEAST && best.is_none_or(|best: Found| length > best.length) {
                best = Some(Found { next, length });
                if length >= ENOUGH {
                    break;
                }
            }
            next = self.earlier[next as usize - 1];
        }
        best
    }

    fn class(&self, first: u32, second: u32) -> usize {
        let pair = u64::from(first) << 32 | u64::from(second);
        let mixed = pair.wrapping_mul(SPREAD) >> 32;
        mixed as usize & self.heads.len().saturating_sub(1)
    }
}

/// How many tokens the ends of two texts have in common, up to [`ENOUGH`].
fn agreeing(one: &[u32], other: &[u32]) -> u32 {
    let ends = one.iter().rev().zip(other.iter().rev()).take(ENOUGH as usize);
    ends.take_while(|(one, other)| one == other).count() as u32
}

/// The `count` tokens that came after `found`. A place so near the end that fewer came is one that repeats itself.
pub(crate) fn continuation(text: &[u32], found: Found, count: u32) -> impl Iterator<Item = u32> {
    let (next, end) = (found.next as usize, text.len());
    let period = end.saturating_sub(next).max(1);
    (0..count as usize).map_while(move |ahead| text.get(next + ahead % period).copied())
}

/// Fewer tokens that agree say nothing.
const LEAST: u32 = 2;
/// More tokens that agree say no more.
const ENOUGH: u32 = 16;
/// Places that are looked at.
const MAX_LINKS: u32 = 16;
/// By so much a text is expected to grow after it was first looked at.
const EXPECTED_GROWTH: usize = 1_024;
const LEAST_CLASSES: usize = 1 << 8;
/// 512 kB; a longer text has longer chains.
const MAX_CLASSES: usize = 1 << 17;
/// Of large primes: the golden ratio of 2^64.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The lookup of a text that came token by token, from `at` on.
    fn grown(text: &[u32], at: usize) -> (Lookup, Option<Found>) {
        let (mut lookup, mut found) = (Lookup::default(), None);
        for end in at..=text.len() {
            lookup.learn(&text[..end], usize::MAX);
            found = lookup.find(&text[..end]);
        }
        (lookup, found)
    }

    proptest! {
        #[test]
        fn what_is_found_stood_there(
            text in prop::collection::vec(0..6_u32, 0..200),
            at in any::<prop::sample::Index>(),
            parts in 1..50_usize,
        ) {
            let (_, found) = grown(&text, at.index(text.len() + 1));
            if let Some(Found { next, length }) = found {
                prop_assert!((next as usize) < text.len() && length >= LEAST && length <= next);
                let length = length as usize;
                prop_assert_eq!(&text[next as usize - length..next as usize], &text[text.len() - length..]);
            }
            // In parts it knows the same in the end.
            let mut lookup = Lookup::default();
            while !lookup.learn(&text, parts) {}
            let mut whole = Lookup::default();
            whole.learn(&text, usize::MAX);
            prop_assert_eq!(lookup.find(&text), whole.find(&text));
        }
    }

    #[test]
    fn the_place_before_which_most_tokens_agree_is_where_a_text_goes_on() {
        let text = [1, 2, 3, 4, 50, 9, 3, 4, 60, 7, 1, 2, 3, 4];
        let (_, found) = grown(&text, text.len());
        assert_eq!(found, Some(Found { next: 4, length: 4 }));
        assert_eq!(continuation(&text, found.unwrap(), 3).collect::<Vec<_>>(), [50, 9, 3]);
    }

    #[test]
    fn of_places_that_are_as_good_the_latest_is_taken() {
        let (_, found) = grown(&[3, 4, 50, 3, 4, 60, 1, 3, 4], 0);
        assert_eq!(found, Some(Found { next: 5, length: 2 }));
    }

    #[test]
    fn a_text_that_repeats_itself_is_expected_to_go_on_repeating() {
        let text = [9, 1, 2, 3, 1, 2, 3];
        let (_, found) = grown(&text, 0);
        assert_eq!(
            continuation(&text, found.unwrap(), 7).collect::<Vec<_>>(),
            [1, 2, 3, 1, 2, 3, 1]
        );
    }

    #[test]
    fn a_passage_is_followed_past_where_it_would_be_lost_among_others() {
        let passage: Vec<u32> = (100..160).collect();
        // The same pair stands in many later places.
        let noise = [130, 131, 5].repeat(MAX_LINKS as usize + 1);
        let text = [&passage[..], &noise, &passage[..32]].concat();

        let (_, followed) = grown(&text, passage.len() + noise.len() + 17);

        assert_eq!(followed.map(|found| found.next), Some(32));
        let (_, searched) = grown(&text, text.len());
        assert_ne!(searched.map(|found| found.next), Some(32));
    }

    #[test]
    fn a_text_that_says_nothing_twice_is_not_guessed_at() {
        let text: Vec<u32> = (0..5_000).collect();
        assert_eq!(grown(&text, 4_990).1, None);
        assert_eq!((grown(&[], 0).1, grown(&[1], 0).1), (None, None));
    }
}
