//! The JSON Schema of the configuration, for editors: made from the table of keys.
//!
//! It knows shapes. What the configuration means (labels, recipients, patterns) only
//! `config check` knows.

use super::key::{Key, Names, ROOT, Section, Shape};
use serde_json::{Map, Value, json};

/// The schema, in the dialect of 2020-12.
pub fn schema() -> Value {
    let mut schema = section(&ROOT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("strongroom.toml");
    schema
}

fn section(section: &Section) -> Value {
    let built = || section.keys.iter().filter(|key| !matches!(key.shape, Shape::NotBuilt(_)));
    let properties: Map<String, Value> = built().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = built().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": section.doc,
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    schema["description"] = json!(key.doc);
    schema
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Text | Shape::NotBuilt(_) => json!({ "type": "string" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Whole(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Size(least, most) => json!({ "anyOf": [
            { "type": "integer", "minimum": least, "maximum": most },
            { "type": "string", "pattern": "^[0-9]+ ?(B|KiB|MiB|GiB|TiB)?$" },
        ] }),
        Shape::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" }),
        Shape::Word(words) => json!({ "type": "string", "enum": words.known }),
        Shape::Json => json!({ "type": "object" }),
        Shape::Secret => json!({
            "type": "object",
            "additionalProperties": false,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {
                "env": { "type": "string", "pattern": Names::Variable.pattern(), "description": "Name of an environment variable." },
                "file": { "type": "string", "minLength": 1, "description": "Path of a file; one trailing newline is not part of the secret." },
            },
        }),
        Shape::List(inner) => json!({ "type": "array", "items": self::shape(inner) }),
        Shape::Map(names, inner) => json!({
            "type": "object",
            "propertyNames": { "pattern": names.pattern() },
            "additionalProperties": self::shape(inner),
        }),
        Shape::Table(inner) => section(inner),
        Shape::Tables(inner) => json!({ "anyOf": [section(inner), { "type": "array", "items": section(inner) }] }),
        Shape::Union(shapes) => json!({ "anyOf": shapes.iter().map(self::shape).collect::<Vec<_>>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the table is in the schema with its documentation, and no other is.
    fn check_section(keys: &'static Section, schema: &Value, path: &str) {
        let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} has no properties"));
        let built: Vec<_> = keys.keys.iter().filter(|key| !matches!(key.shape, Shape::NotBuilt(_))).collect();
        assert_eq!(properties.len(), built.len(), "{path}");
        assert_eq!(schema["additionalProperties"], json!(false), "{path}");
        for key in built {
            let property = &properties[key.name];
            assert_eq!(property["description"], json!(key.doc), "{path}.{}", key.name);
            check_shape(&key.shape, property, &format!("{path}.{}", key.name));
        }
    }

    fn check_shape(shape: &'static Shape, schema: &Value, path: &str) {
        match shape {
            Shape::Table(inner) => check_section(inner, schema, path),
            Shape::Tables(inner) => check_section(inner, &schema["anyOf"][0], path),
            Shape::Map(_, inner) => check_shape(inner, &schema["additionalProperties"], path),
            Shape::List(inner) => check_shape(inner, &schema["items"], path),
            Shape::Union(shapes) => {
                shapes.iter().enumerate().for_each(|(n, inner)| check_shape(inner, &schema["anyOf"][n], path));
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_holds_every_key_of_the_table_and_no_other() {
        check_section(&ROOT, &schema(), "");
    }

    #[test]
    fn the_schema_is_a_valid_schema() {
        jsonschema::meta::validate(&schema()).unwrap();
    }
}
