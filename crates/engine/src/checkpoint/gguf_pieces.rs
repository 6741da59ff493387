//! Merges of a tokenizer that has scores in their place.
//!
//! `SentencePiece` joins, of all neighbours that make a piece, those whose piece has the best score. Told as merges,
//! that is every way to cut a piece into two others, those of better pieces first.

use std::collections::HashMap;

/// A piece that others may be joined to.
pub(super) struct Piece<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    pub(super) score: f64,
}

/// All merges, the first one first.
pub(super) fn merges<'a>(pieces: &[Piece<'a>]) -> Vec<(&'a str, &'a str)> {
    let ids: HashMap<&str, u32> = pieces.iter().map(|piece| (piece.text, piece.id)).collect();
    let mut found = Vec::new();
    for piece in pieces {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(first), Some(second)) = (ids.get(left), ids.get(right)) {
                let lengths = (left.chars().count(), right.chars().count());
                found.push((piece.score, lengths, (piece.id, *first, *second), (left, right)));
            }
        }
    }
    found.sort_by(|one, other| {
        let better = other.0.total_cmp(&one.0);
        // Of equals, what joins longer pieces, and then what was there first.
        better.then_with(|| other.1.cmp(&one.1)).then_with(|| one.2.cmp(&other.2))
    });
    found.into_iter().map(|(_, _, _, merge)| merge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_pieces_are_joined_first_and_every_way_to_join_one_is_there() {
        let texts =
            [("a", -9.0), ("b", -9.0), ("é", -9.0), ("ab", -1.0), ("bé", -3.0), ("abé", -2.0)];
        let pieces = texts.iter().enumerate();
        let pieces = pieces.map(|(id, (text, score))| Piece { id: id as u32, text, score: *score });
        let pieces: Vec<Piece<'_>> = pieces.collect();
        assert_eq!(merges(&pieces), [("a", "b"), ("ab", "é"), ("a", "bé"), ("b", "é")]);
    }
}
