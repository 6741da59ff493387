//! Many different JSON schemas, the same ones every time.

use serde_json::{Map, Value, json};

/// Pseudo-random decisions (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64) as usize]
    }
}

/// `count` schemas: nested objects, enums, unions, optional properties, arrays, text in several scripts, and
/// schemas that refer to themselves.
pub(crate) fn corpus(count: u64) -> Vec<Value> {
    let mut schemas = Vec::new();
    for seed in 0..count {
        let dice = &mut Dice(seed);
        schemas.push(match seed % 10 {
            0 => recursive(dice),
            1 => json!({ "anyOf": [object(dice, 2), array(dice, 2)] }),
            2 => array(dice, 3),
            _ => object(dice, 3),
        });
    }
    schemas
}

fn any(dice: &mut Dice, depth: u32) -> Value {
    if depth == 0 {
        return leaf(dice);
    }
    match dice.roll(8) {
        0 | 1 => object(dice, depth - 1),
        2 => array(dice, depth - 1),
        3 => json!({ "anyOf": [leaf(dice), any(dice, depth - 1)] }),
        4 => json!({ "type": [dice.pick(&["string", "integer"]), "null"], "maxLength": 8 }),
        _ => leaf(dice),
    }
}

fn leaf(dice: &mut Dice) -> Value {
    let least = dice.roll(50) as i64 - 25;
    match dice.roll(11) {
        0 => json!({ "type": "string", "minLength": dice.roll(3), "maxLength": 3 + dice.roll(9) }),
        1 => json!({ "type": "string", "pattern": "^[a-zäöü]{2,6}(-[0-9]{1,3})?$" }),
        2 => json!({ "type": "string", "format": dice.pick(&["date", "time", "uuid"]) }),
        3 => {
            json!({ "type": "integer", "minimum": least, "maximum": least + dice.roll(900) as i64 })
        }
        4 => {
            json!({ "type": "integer", "exclusiveMinimum": least, "multipleOf": 5, "maximum": 999 })
        }
        5 => json!({ "type": "number", "minimum": least, "maximum": least + 7 }),
        6 => json!({ "type": "boolean" }),
        7 => json!({ "type": "null" }),
        8 => json!({ "enum": [word(dice), dice.roll(9), null, word(dice), true, [1, "zwei"]] }),
        9 => json!({ "const": word(dice) }),
        _ => json!({ "enum": ["offen", "geschlossen \"ganz\"", "閉じた", "🙂🙃", "a\\b\n"] }),
    }
}

fn word<'a>(dice: &mut Dice) -> &'a str {
    dice.pick(&[
        "name",
        "größe",
        "ключ",
        "名前",
        "e\u{301}tat",
        "a b",
        "x/y",
        "\"q\"",
        "🙂",
        "id",
        "",
        "t\tb",
    ])
}

fn object(dice: &mut Dice, depth: u32) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for _ in 0..=dice.roll(4) {
        let name = word(dice);
        if properties.insert(name.to_owned(), any(dice, depth)).is_none() && dice.roll(3) > 0 {
            required.push(name);
        }
    }
    let more = match dice.roll(5) {
        0 => json!({ "type": "integer", "minimum": 0, "maximum": 9 }),
        _ => json!(false),
    };
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": more })
}

fn array(dice: &mut Dice, depth: u32) -> Value {
    let least = dice.roll(2);
    match dice.roll(4) {
        0 => json!({
            "type": "array", "prefixItems": [leaf(dice), any(dice, depth)], "items": false, "minItems": 2
        }),
        _ => json!({
            "type": "array", "items": any(dice, depth), "minItems": least, "maxItems": least + dice.roll(3)
        }),
    }
}

fn recursive(dice: &mut Dice) -> Value {
    let own = json!({ "$ref": "#/$defs/knoten" });
    let node = json!({
        "type": "object",
        "properties": {
            word(dice): leaf(dice),
            "next": { "anyOf": [own, { "type": "null" }] },
            "kinder": { "type": "array", "items": own, "maxItems": 2 },
        },
        "required": ["next"],
        "additionalProperties": false,
    });
    json!({ "$defs": { "knoten": node }, "$ref": "#/$defs/knoten" })
}
