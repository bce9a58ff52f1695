//! Reading a file into shapes without stopping at the first that is wrong. A field of another name is told and passed
//! over; where a value is of another shape, it is told, and the file read again without it.

use std::{cell::RefCell, collections::BTreeSet};

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, IntoDeserializer as _,
    MapAccess, SeqAccess, Visitor, value::MapDeserializer,
};

/// Most faults of shape told: beyond, a file is hardly what it is taken for.
const FAULTS_MAX: usize = 100;
/// Longest name shown of a field, in characters.
const NAME_MAX: usize = 64;

/// What was wrong with shapes.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pub(super) faults: Vec<String>,
    /// Paths of values that were left out.
    left_out: BTreeSet<String>,
}

impl Shapes {
    /// Whether a fault is of something that was left out, and so none of the file's.
    pub(super) fn explain(&self, fault: &str) -> bool {
        let within = |path: &String| {
            fault.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with(['.', '[', ':']))
        };
        self.left_out.iter().any(within)
    }
}

/// Reads a file.
///
/// # Errors
/// The faults where it is no YAML, another thing than fields with values, or has too many faults.
pub(super) fn read<T: DeserializeOwned>(yaml: &str) -> Result<(T, Shapes), Vec<String>> {
    // What is no YAML has no other faults worth telling.
    super::from_yaml::<serde_json::Value>(yaml).map_err(|fault| vec![fault])?;
    let (mut shapes, mut all_unknown) = (Shapes::default(), Vec::new());
    loop {
        let state = State { left_out: &shapes.left_out, found: RefCell::default() };
        let options = serde_saphyr::options! { with_snippet: false };
        let read = serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |inner| {
            T::deserialize(Tracked { inner, at: At { state: &state, path: String::new() } })
        });
        let Found { unknown, wrong } = state.found.into_inner();
        for fault in unknown {
            // Each reading finds those before it again.
            if !all_unknown.contains(&fault) {
                all_unknown.push(fault);
            }
        }
        let error = match read {
            Ok(value) => {
                shapes.faults.splice(0..0, all_unknown);
                return Ok((value, shapes));
            }
            Err(error) => super::redact(&error.to_string()),
        };
        let mut path = wrong.unwrap_or_default();
        if shapes.left_out.contains(&path) {
            // Nothing can stand in its place: what holds it is left out as well.
            path.truncate(path.rfind(['.', '[']).unwrap_or(0));
        } else if !path.is_empty() {
            shapes.faults.push(format!("{path}: {error}"));
        }
        let done = path.is_empty() || shapes.faults.len() > FAULTS_MAX;
        if done || !shapes.left_out.insert(path) {
            shapes.faults.splice(0..0, all_unknown);
            if shapes.faults.is_empty() {
                shapes.faults.push(error);
            }
            return Err(shapes.faults);
        }
    }
}

/// What one reading knows and finds.
struct State<'s> {
    left_out: &'s BTreeSet<String>,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    /// Faults of fields of another name.
    unknown: Vec<String>,
    /// Where reading failed.
    wrong: Option<String>,
}

/// A place in the file.
#[derive(Clone)]
struct At<'s> {
    state: &'s State<'s>,
    path: String,
}

impl At<'_> {
    fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { state: self.state, path }
    }

    fn item(&self, i: usize) -> Self {
        Self { state: self.state, path: format!("{}[{i}]", self.path) }
    }

    fn is_left_out(&self) -> bool {
        self.state.left_out.contains(&self.path)
    }

    /// Notes where reading failed, the innermost place first.
    fn noted<T, E>(&self, read: Result<T, E>) -> Result<T, E> {
        if read.is_err() {
            self.state.found.borrow_mut().wrong.get_or_insert_with(|| self.path.clone());
        }
        read
    }

    fn unknown(&self, name: &str, fields: &[&str]) {
        let shown: String = super::redact(name).chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        let path = self.field(&shown).path;
        let fault = format!("{path}: must be one of {}, got a field of another name", fields.join(", "));
        let unknown = &mut self.state.found.borrow_mut().unknown;
        if unknown.len() < FAULTS_MAX {
            unknown.push(fault);
        }
    }
}

/// A deserializer, seed, visitor or access that knows its place.
struct Tracked<'s, I> {
    inner: I,
    at: At<'s>,
}

/// A visitor; of a struct with the names of its fields.
struct Visiting<'s, V> {
    inner: V,
    at: At<'s>,
    fields: &'static [&'static str],
}

macro_rules! pass {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* visitor)
        }
    )*};
}

macro_rules! follow {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Visiting { inner: visitor, at: self.at, fields: &[] })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Tracked<'_, D> {
    type Error = D::Error;

    pass! {
        deserialize_bool(); deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64();
        deserialize_i128(); deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64();
        deserialize_u128(); deserialize_f32(); deserialize_f64(); deserialize_char(); deserialize_str();
        deserialize_string(); deserialize_bytes(); deserialize_byte_buf(); deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier(); deserialize_ignored_any();
    }

    follow! {
        deserialize_any(); deserialize_option(); deserialize_seq(); deserialize_map();
        deserialize_newtype_struct(name: &'static str); deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_struct(name, fields, Visiting { inner: visitor, at: self.at, fields })
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Visiting<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool); visit_i8(i8); visit_i16(i16); visit_i32(i32); visit_i64(i64); visit_i128(i128);
        visit_u8(u8); visit_u16(u16); visit_u32(u32); visit_u64(u64); visit_u128(u128); visit_f32(f32);
        visit_f64(f64); visit_char(char); visit_str(&str); visit_borrowed_str(&'de str); visit_string(String);
        visit_bytes(&[u8]); visit_borrowed_bytes(&'de [u8]); visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Tracked { inner, at: self.at })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Tracked { inner, at: self.at })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Items { inner, at: self.at, next: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Entries { inner, value: self.at.clone(), at: self.at, fields: self.fields })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(inner)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Tracked<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let at = self.at.clone();
        at.noted(self.inner.deserialize(Tracked { inner, at: self.at }))
    }
}

struct Items<'s, A> {
    inner: A,
    at: At<'s>,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let at = self.at.item(self.next);
        self.next += 1;
        if !at.is_left_out() {
            return self.inner.next_element_seed(Tracked { inner: seed, at });
        }
        // An empty one in its place, so that those after it keep theirs.
        let Some(IgnoredAny) = self.inner.next_element()? else { return Ok(None) };
        let empty = std::iter::empty::<(&str, &str)>();
        at.noted(seed.deserialize(MapDeserializer::new(empty))).map(Some)
    }
}

struct Entries<'s, A> {
    inner: A,
    at: At<'s>,
    /// Of the field whose value comes next.
    value: At<'s>,
    fields: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        while let Some(name) = self.at.noted(self.inner.next_key::<String>())? {
            self.value = self.at.field(&name);
            let is_known = self.fields.is_empty() || self.fields.contains(&name.as_str());
            if !is_known {
                self.at.unknown(&name, self.fields);
            }
            if is_known && !self.value.is_left_out() {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.inner.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Tracked { inner: seed, at: self.value.clone() })
    }
}
