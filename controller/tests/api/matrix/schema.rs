//! Whether an answer is what the description promises.

use serde_json::{Map, Value};

/// Where a value is not as its schema says, in words; empty: it is. A member that is not described
/// is a fault too.
pub(super) fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(name) = super::reference(schema) {
        return faults(document, &document["components"]["schemas"][name], value, place);
    }
    for any in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[any].as_array() {
            let each = schemas.iter().map(|schema| faults(document, schema, value, place));
            return each.min_by_key(Vec::len).unwrap_or_default();
        }
    }
    let mut found = Vec::new();
    let kind = &schema["type"];
    let kinds = kind.as_array().map_or(std::slice::from_ref(kind), Vec::as_slice);
    let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
    if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind, value)) {
        found.push(format!("{place}: {value} is no {kinds:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{place}: {value} is none of {}", schema["enum"]));
    }
    match value {
        Value::String(text)
            if schema["format"] == "uuid" && text.parse::<uuid::Uuid>().is_err() =>
        {
            found.push(format!("{place}: {text} is no UUID"));
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter().enumerate() {
                let place = format!("{place}[{index}]");
                found.extend(faults(document, &schema["items"], item, &place));
            }
        }
        Value::Object(members) => found.extend(in_object(document, schema, members, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
    }
    found
}

fn in_object(
    document: &Value,
    schema: &Value,
    members: &Map<String, Value>,
    place: &str,
) -> Vec<String> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut found: Vec<String> = required
        .filter(|name| !members.contains_key(*name))
        .map(|name| format!("{place}.{name} is missing"))
        .collect();
    for (name, value) in members {
        let place = format!("{place}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Null | Value::Bool(false)) => {
                found.push(format!("{place} is not described"));
            }
            (Value::Null, rest) => found.extend(faults(document, rest, value, &place)),
            (schema, _) => found.extend(faults(document, schema, value, &place)),
        }
    }
    found
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        kind => panic!("a type {kind:?} is new here"),
    }
}

#[test]
fn faults_are_found_at_their_places() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"Id": {"type": "string", "format": "uuid"}}}});
    let schema = json!({
        "type": "object",
        "required": ["id", "items"],
        "properties": {
            "id": {"$ref": "#/components/schemas/Id"},
            "items": {"type": "array", "items": {"type": ["integer", "null"]}},
            "mode": {"oneOf": [{"type": "null"}, {"type": "string", "enum": ["auto"]}]},
        },
    });
    let faults = |value: Value| faults(&document, &schema, &value, "it");
    let id = uuid::Uuid::nil();
    assert_eq!(faults(json!({"id": id, "items": [1, null], "mode": "auto"})), [""; 0]);
    assert_eq!(faults(json!({"id": "x", "items": []})), ["it.id: x is no UUID"]);
    assert_eq!(faults(json!({"id": id})), ["it.items is missing"]);
    assert_eq!(faults(json!({"id": id, "items": [1.5]})).len(), 1);
    assert_eq!(faults(json!({"id": id, "items": [], "mode": "fast"})).len(), 1);
    assert_eq!(faults(json!({"id": id, "items": [], "x": 1})), ["it.x is not described"]);
}
