//! Whether a JSON value is of the shape that a JSON Schema says: of what our own schemas use, no more.

use serde_json::Value;

/// The schemas of one document refer to each other, and a hostile value is as deep as it likes.
const DEEPEST: u32 = 64;

/// The place in `value`, as a JSON Pointer, that is not as `schema` (a document of its own) says, and what should be there;
/// `None` where all is.
pub fn misfit(schema: &Value, value: &Value) -> Option<(String, String)> {
    of(schema, schema, value, &mut String::new(), DEEPEST).err()
}

type Fits = Result<(), (String, String)>;

fn of(root: &Value, schema: &Value, value: &Value, at: &mut String, left: u32) -> Fits {
    let wrong = |at: &str, words: String| Err((at.to_owned(), words));
    let Some(left) = left.checked_sub(1) else { return wrong(at, "it is too deep".to_owned()) };
    // `true`: anything.
    let Some(schema) = schema.as_object() else { return Ok(()) };
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'))
        && let Some(schema) = root.pointer(pointer)
    {
        of(root, schema, value, at, left)?;
    }
    if let Some(expected) = schema.get("type")
        && !is_of_type(expected, value)
    {
        return wrong(at, format!("it should be of type {expected}"));
    }
    if let Some(constant) = schema.get("const")
        && constant != value
    {
        return wrong(at, format!("it should be {constant}"));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        return wrong(at, "it should be one of a list of words".to_owned());
    }
    for key in ["anyOf", "oneOf"] {
        let any = schema.get(key).and_then(Value::as_array);
        // What may be absent, and is there, has one shape: then the place is told that is not as it says.
        if let Some([one, null]) = any.map(Vec::as_slice)
            && null["type"] == "null"
            && !value.is_null()
        {
            of(root, one, value, at, left)?;
            continue;
        }
        if any.is_some_and(|any| !any.iter().any(|one| of(root, one, value, at, left).is_ok())) {
            return wrong(at, "it is of none of the shapes that it may have".to_owned());
        }
    }
    for one in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        of(root, one, value, at, left)?;
    }
    match value {
        Value::Object(members) => {
            for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                if !members.contains_key(key) {
                    return wrong(at, format!("it has no {key}"));
                }
            }
            let (properties, others) = (schema.get("properties"), schema.get("additionalProperties"));
            for (key, member) in members {
                let expected = properties.and_then(|properties| properties.get(key)).or(others);
                let Some(expected) = expected.filter(|expected| !expected.is_boolean()) else { continue };
                below(at, &key.replace('~', "~0").replace('/', "~1"), |at| of(root, expected, member, at, left))?;
            }
            Ok(())
        }
        Value::Array(items) => {
            let Some(expected) = schema.get("items") else { return Ok(()) };
            for (index, item) in items.iter().enumerate() {
                below(at, &index.to_string(), |at| of(root, expected, item, at, left))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn below(at: &mut String, key: &str, check: impl FnOnce(&mut String) -> Fits) -> Fits {
    let length = at.len();
    at.push('/');
    at.push_str(key);
    let fits = check(at);
    at.truncate(length);
    fits
}

fn is_of_type(expected: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    match expected {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => true,
    }
}
