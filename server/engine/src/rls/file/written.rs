//! Numbers and flags as they were written. YAML reads `value: 1.10` and `010` as numbers, but the value of a key is a text,
//! and an error repeats what the file contains.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

use super::from_yaml;

/// A value of a document.
#[derive(Debug, Default)]
pub(super) enum Written {
    /// A text, or nothing: as parsed.
    #[default]
    Plain,
    /// A number or a flag, as written.
    Scalar(String),
    List(Vec<Written>),
    Map(BTreeMap<String, Written>),
}

static PLAIN: Written = Written::Plain;

impl Written {
    /// Returns all documents of a text that are not empty.
    ///
    /// # Errors
    /// Fails if the text is not YAML.
    pub(super) fn documents(yaml: &str) -> Result<Vec<Self>, String> {
        let documents: Vec<Place> = from_yaml(yaml)?;
        Ok(documents.into_iter().map(|document| Self::of(document, yaml)).collect())
    }

    fn of(Place(place): Place, yaml: &str) -> Self {
        match place.value {
            Value::Plain => Self::Plain,
            Value::Scalar => {
                let span = place.defined.span();
                let at = || {
                    let start = usize::try_from(span.byte_offset()?).ok()?;
                    yaml.get(start..start + usize::try_from(span.byte_len()?).ok()?)
                };
                at().map_or(Self::Plain, |text| Self::Scalar(text.to_owned()))
            }
            Value::List(items) => Self::List(items.into_iter().map(|item| Self::of(item, yaml)).collect()),
            Value::Map(fields) => {
                Self::Map(fields.into_iter().map(|(name, field)| (name, Self::of(field, yaml))).collect())
            }
        }
    }

    pub(super) fn field(&self, name: &str) -> &Self {
        if let Self::Map(fields) = self { fields.get(name).unwrap_or(&PLAIN) } else { &PLAIN }
    }

    pub(super) fn item(&self, i: usize) -> &Self {
        if let Self::List(items) = self { items.get(i).unwrap_or(&PLAIN) } else { &PLAIN }
    }

    /// Returns the text of a number or a flag.
    pub(super) fn scalar(&self) -> Option<&str> {
        if let Self::Scalar(text) = self { Some(text) } else { None }
    }
}

/// A value and its place in the text.
struct Place(Spanned<Value>);

enum Value {
    Plain,
    Scalar,
    List(Vec<Place>),
    Map(BTreeMap<String, Place>),
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Plain)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Plain)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Plain)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Plain)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, field)) = map.next_entry()? {
            fields.insert(name, field);
        }
        Ok(Value::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_flags_are_kept_as_written() {
        let yaml = "---\na: 010\nb: [1.10, yes, x, ~, \"010\", ü, 0x1F]\nc: &c {d: 5.0}\ne: *c\nf: {<<: *c, g: 1e3}\n---\n\n---\n7\n";
        let documents = Written::documents(yaml).unwrap();
        assert_eq!(documents.len(), 2);
        let first = &documents[0];
        assert_eq!(first.field("a").scalar(), Some("010"));
        let item = |i| first.field("b").item(i).scalar();
        assert_eq!(item(0), Some("1.10"));
        assert_eq!((item(2), item(3), item(4), item(5), item(99)), (None, None, None, None, None));
        assert_eq!(item(6), Some("0x1F"));
        for at in ["c", "e", "f"] {
            assert_eq!(first.field(at).field("d").scalar(), Some("5.0"), "{at}");
        }
        assert_eq!(first.field("f").field("g").scalar(), Some("1e3"));
        assert_eq!(documents[1].scalar(), Some("7"));
    }
}
