//! YAML as a tree that knows its lines, so that a part of a file can be read or refused by itself.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_saphyr::{Spanned, budget, options};

use crate::cmdb_records::{Fault, Place};

/// One value of a file.
#[derive(Debug)]
pub(super) struct Node {
    /// Line, from 1.
    pub(super) line: u64,
    /// Where its text begins and ends in the file, in bytes.
    text: std::ops::Range<usize>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Null,
    Bool(bool),
    Negative(i64),
    Whole(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

/// Reads a whole file.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let options = options! {
        // A fleet of 100,000 servers with every field set has about two million nodes.
        budget: budget! {
            max_events: 10_000_000,
            max_nodes: 5_000_000,
        },
        with_snippet: false,
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let fault = Fault::somewhere(error.without_snippet().to_string());
        match error.location() {
            Some(location) => fault.or_at(Place::Line(location.line())),
            None => fault,
        }
    })
}

impl Node {
    fn place(&self) -> Place {
        Place::Line(self.line)
    }

    /// The entries of a map: line and name of the key, and the value. `None` if it is none.
    pub(super) fn entries(&self) -> Option<impl Iterator<Item = (u64, &str, &Node)>> {
        let Value::Map(entries) = &self.value else { return None };
        Some(entries.iter().map(|(key, node)| (key.referenced.line(), key.value.as_str(), node)))
    }

    /// The value under `name`, if this is a map that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.entries()?.find(|(_, key, _)| *key == name).map(|(_, _, node)| node)
    }

    /// The items of a list; `None` if it is none.
    pub(super) fn items(&self) -> Option<&[Node]> {
        if let Value::List(items) = &self.value { Some(items) } else { None }
    }

    /// Reads the value as a `T`. `source` is the text of the whole file.
    pub(super) fn read<'a, T: Deserialize<'a>>(&'a self, source: &'a str) -> Result<T, Fault> {
        T::deserialize(Cursor { node: self, source })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let span = spanned.defined.span();
        let index = |bytes: Option<u64>| bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let start = index(span.byte_offset()).unwrap_or(0);
        let end = start + index(span.byte_len()).unwrap_or(0);
        Ok(Self { line: spanned.referenced.line(), text: start..end, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Negative(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Value::Map(map))
    }
}

/// A node as a source of serde; every error carries the line that it is about.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    node: &'a Node,
    source: &'a str,
}

impl<'a> Cursor<'a> {
    /// What is written in the file where a plain number or boolean stands.
    fn written(self) -> Option<&'a str> {
        self.source.get(self.node.text.clone()).filter(|text| !text.is_empty())
    }

    fn visit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => Err(Fault::custom("the value is missing")),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Negative(value) => visitor.visit_i64(*value),
            Value::Whole(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_borrowed_str(value),
            Value::List(items) => visitor.visit_seq(Items { at: self, rest: items.iter() }),
            Value::Map(entries) => {
                visitor.visit_map(Entries { at: self, rest: entries.iter(), value: None })
            }
        }
    }
}

impl<'de> Deserializer<'de> for Cursor<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor).map_err(|fault| fault.or_at(self.node.place()))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        // An instance named 01 or a data centre named NO needs no quotes.
        match (&self.node.value, self.written()) {
            (
                Value::Bool(_) | Value::Negative(_) | Value::Whole(_) | Value::Float(_),
                Some(text),
            ) => visitor.visit_borrowed_str(text),
            _ => self.visit(visitor),
        }
        .map_err(|fault| fault.or_at(self.node.place()))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if matches!(self.node.value, Value::Null) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Text(word) = &self.node.value else {
            return Err(Fault::new(self.node.place(), "a word is expected here"));
        };
        let word: StrDeserializer<'_, Fault> = word.as_str().into_deserializer();
        visitor.visit_enum(word).map_err(|fault| fault.or_at(self.node.place()))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    at: Cursor<'a>,
    rest: std::slice::Iter<'a, Node>,
}

impl<'a> SeqAccess<'a> for Items<'a> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let item = self.rest.next().map(|node| Cursor { node, ..self.at });
        item.map(|item| seed.deserialize(item)).transpose()
    }
}

struct Entries<'a> {
    at: Cursor<'a>,
    rest: std::slice::Iter<'a, (Spanned<String>, Node)>,
    value: Option<(&'a str, &'a Node)>,
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((&key.value, value));
        let name: StrDeserializer<'_, Fault> = key.value.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|fault| fault.or_at(Place::Line(key.referenced.line())).named())
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, node) = self.value.take().expect("serde asks for the key first");
        seed.deserialize(Cursor { node, ..self.at })
            .map_err(|fault| fault.or_at(node.place()).in_field(name))
    }
}
