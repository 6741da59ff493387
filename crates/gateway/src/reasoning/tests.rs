//! Thoughts and answers, whole and in pieces.

use proptest::prelude::*;

use super::*;

fn thinking() -> Thinking {
    Thinking { marks: &MARKS[0], tokens: Vec::new() }
}

/// What tokens with these texts come to: thoughts, answer, and how many tokens were thoughts.
fn read(reasoning: Reasoning, tokens: &[&str]) -> (String, String, u32) {
    let mut parser = thinking().parser(reasoning).unwrap();
    let (mut thoughts, mut answer, mut bytes) = (String::new(), String::new(), 0);
    for token in tokens {
        parser.note(bytes);
        bytes += token.len();
        let Split { reasoning, content } = parser.push(token);
        thoughts.push_str(&reasoning);
        answer.push_str(&content);
    }
    let Split { reasoning, content } = parser.finish();
    (thoughts + &reasoning, answer + &content, parser.tokens())
}

#[test]
fn thoughts_are_told_from_the_answer() {
    let own =
        |thoughts: &str, answer: &str, tokens| (thoughts.to_owned(), answer.to_owned(), tokens);
    for (tokens, expected) in [
        (
            &["<think>", "\n", "a", " b", "\n", "</think>", "\n\n", "c", " d"][..],
            own("a b", "c d", 4),
        ),
        (&["<th", "ink", ">a", " b", "</th", "ink", ">", "c"], own("a b", "c", 1)),
        (&["\n", "<think>", "</think>", "c"], own("", "c", 0)),
        (&["c", " <think>", "x", "</think>"], own("", "c <think>x</think>", 0)),
        (&["<thi", "s>"], own("", "<this>", 0)),
        (&["<think>", "a", "</th"], own("a</th", "", 2)),
        (&["<think>", "a", "</think>"], own("a", "", 1)),
        (&["<thi"], own("", "<thi", 0)),
    ] {
        assert_eq!(read(Reasoning::Apart, tokens), expected, "{tokens:?}");
    }
    for (tokens, expected) in [
        (&["a", " b", "\n", "</think>", "\n", "c"][..], own("a b", "c", 3)),
        (&["<think>", "a", "</think>", "c"], own("a", "c", 1)),
        (&["a", " b"], own("a b", "", 2)),
        (&["<", "a"], own("<a", "", 2)),
        (&["</think>", "c"], own("", "c", 0)),
    ] {
        assert_eq!(read(Reasoning::Begun, tokens), expected, "{tokens:?}");
    }
}

#[test]
fn a_prompt_that_ends_in_thoughts_has_begun_them() {
    let thinking = thinking();
    for (prompt, goes_on, expected) in [
        ("user: hi\nassistant:", false, Reasoning::Apart),
        ("user: hi\nassistant: <think>\n", false, Reasoning::Begun),
        ("user: hi\nassistant: <think>\n\n</think>\n\n", false, Reasoning::Apart),
        ("user: what is <think>?\nassistant:", false, Reasoning::Apart),
        ("assistant: <think>so far", true, Reasoning::Begun),
        ("assistant: <think>so</think> far", true, Reasoning::Apart),
    ] {
        assert_eq!(thinking.after(prompt, goes_on), expected, "{prompt}");
    }
    assert!(thinking.parser(Reasoning::AsText).is_none());
}

proptest! {
    #[test]
    fn however_text_is_cut_the_same_is_told(
        parts in prop::collection::vec(
            prop::sample::select(vec!["<think>", "</think>", "<", "think>", "/", " ", "\n", "a", "é", "</th"]),
            0..16,
        ),
        cuts in prop::collection::vec(0_usize..80, 0..10),
        begun: bool,
    ) {
        let text = parts.concat();
        let reasoning = if begun { Reasoning::Begun } else { Reasoning::Apart };
        let mut at: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut % (text.len() + 1))).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();

        let (thoughts, answer, tokens) = read(reasoning, &pieces);
        let (whole_thoughts, whole_answer, _) = read(reasoning, &[&text]);

        prop_assert_eq!((&thoughts, &answer), (&whole_thoughts, &whole_answer));
        prop_assert!(tokens as usize <= pieces.len());
        let letters: Vec<&str> = text.char_indices().map(|(at, it)| &text[at..at + it.len_utf8()]).collect();
        let (_, _, single) = read(reasoning, &letters);
        let counted = thoughts.chars().filter(|it| !it.is_whitespace()).count();
        prop_assert!(single as usize >= counted, "each character of a thought is a token of one");
    }
}
