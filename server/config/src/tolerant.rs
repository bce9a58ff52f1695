//! Deserialization that continues after an error. serde stops at the first error; this module reports all errors at
//! once. It skips unknown fields. If a value has the wrong type or is not one of an enum's names, it reads the file
//! again without the value.

use std::{cell::RefCell, collections::BTreeSet, marker::PhantomData};

use serde::{
    Deserialize as _,
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny,
        IntoDeserializer as _, MapAccess, SeqAccess, Visitor, value::MapDeserializer,
    },
    forward_to_deserialize_any,
};

/// Maximum number of errors reported. A file with more errors is hardly a configuration.
const FAULTS_MAX: usize = 100;
/// Maximum length of an unknown field's name in an error, in characters.
const NAME_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct ParseFaults {
    pub(super) faults: Vec<String>,
    /// Paths of the values that were left out.
    left_out: BTreeSet<String>,
}

impl ParseFaults {
    /// Returns whether a validation error is only a consequence of a value that was left out.
    pub(super) fn explain(&self, fault: &str) -> bool {
        let within = |path: &String| {
            fault.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with(['.', '[', ':']))
        };
        self.left_out.iter().any(within)
    }
}

/// Deserializes YAML. Returns the value and all errors that the author of the file can correct.
///
/// # Errors
/// Returns only the errors if the text is not YAML, is not a mapping, or has more than [`FAULTS_MAX`] errors.
pub(super) fn parse<T: DeserializeOwned>(yaml: &str) -> Result<(T, ParseFaults), Vec<String>> {
    // If the text is not YAML, other errors would only mislead.
    super::from_yaml::<serde_json::Value>(yaml).map_err(|fault| vec![fault])?;
    let (mut result, mut all_unknown) = (ParseFaults::default(), Vec::new());
    loop {
        let attempt = Attempt { left_out: &result.left_out, found: RefCell::default() };
        let options = super::yaml_options();
        let read = serde_saphyr::with_deserializer_from_str_with_options(yaml, options, |inner| {
            T::deserialize(Tracked { inner, place: Place { attempt: &attempt, path: String::new() } })
        });
        let Found { unknown, wrong } = attempt.found.into_inner();
        for fault in unknown {
            // Each attempt finds the unknown fields of the previous attempts again.
            if !all_unknown.contains(&fault) {
                all_unknown.push(fault);
            }
        }
        let error = match read {
            Ok(value) => {
                result.faults.splice(0..0, all_unknown);
                return Ok((value, result));
            }
            Err(error) => super::describe(&error),
        };
        let Wrong { mut path, message } = wrong.unwrap_or_default();
        let error = message.unwrap_or(error);
        if result.left_out.contains(&path) {
            // Without the value, reading fails at the same path again: leave out the enclosing value as well.
            path.truncate(path.rfind(['.', '[']).unwrap_or(0));
        } else if !path.is_empty() {
            result.faults.push(format!("{path}: {error}"));
        }
        let done = path.is_empty() || result.faults.len() > FAULTS_MAX;
        if done || !result.left_out.insert(path) {
            result.faults.splice(0..0, all_unknown);
            if result.faults.is_empty() {
                result.faults.push(error);
            }
            return Err(result.faults);
        }
    }
}

/// One attempt to read the file: the values that it leaves out, and the errors that it finds.
struct Attempt<'s> {
    left_out: &'s BTreeSet<String>,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    /// Errors about unknown fields.
    unknown: Vec<String>,
    wrong: Option<Wrong>,
}

#[derive(Default)]
struct Wrong {
    path: String,
    /// Message to report in place of the parser's error.
    message: Option<String>,
}

/// A value in the file, given by its path.
#[derive(Clone)]
struct Place<'s> {
    attempt: &'s Attempt<'s>,
    path: String,
}

impl Place<'_> {
    fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { attempt: self.attempt, path }
    }

    fn item(&self, i: usize) -> Self {
        Self { attempt: self.attempt, path: format!("{}[{i}]", self.path) }
    }

    fn is_left_out(&self) -> bool {
        self.attempt.left_out.contains(&self.path)
    }

    /// Records this path if reading failed. The innermost path is recorded first, and is not replaced.
    fn record<T, E>(&self, read: Result<T, E>) -> Result<T, E> {
        if read.is_err() {
            self.record_wrong(None);
        }
        read
    }

    fn record_wrong(&self, message: Option<String>) {
        let mut found = self.attempt.found.borrow_mut();
        found.wrong.get_or_insert_with(|| Wrong { path: self.path.clone(), message });
    }

    fn record_unknown(&self, name: &str, fields: &[&str]) {
        let shown: String = super::redact(name).chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        let path = self.field(&shown).path;
        let fault = format!("{path}: must be one of {}, got a field of another name", fields.join(", "));
        let unknown = &mut self.attempt.found.borrow_mut().unknown;
        if unknown.len() < FAULTS_MAX {
            unknown.push(fault);
        }
    }
}

/// Formats names as `a, b or c`.
fn alternatives(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A deserializer or seed that knows the path of its value.
struct Tracked<'s, I> {
    inner: I,
    place: Place<'s>,
}

/// A visitor that knows the path of its value. For a struct, it also has the names of the fields.
struct TrackedVisitor<'s, V> {
    inner: V,
    place: Place<'s>,
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
            self.inner.$method($($name,)* TrackedVisitor { inner: visitor, place: self.place, fields: &[] })
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
        self.inner.deserialize_struct(
            name,
            fields,
            TrackedVisitor { inner: visitor, place: self.place, fields },
        )
    }

    /// Reads an enum from its text. All enums of the configuration have only unit variants.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let text = String::deserialize(self.inner)?;
        if variants.contains(&text.as_str()) {
            return visitor.visit_enum(text.into_deserializer());
        }
        let shown = super::redact(&text);
        let message = format!("must be {}, got {shown:?}", alternatives(variants));
        self.place.record_wrong(Some(message));
        Err(D::Error::custom("not one of the names"))
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

impl<'de, V: Visitor<'de>> Visitor<'de> for TrackedVisitor<'_, V> {
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
        self.inner.visit_some(Tracked { inner, place: self.place })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Tracked { inner, place: self.place })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(TrackedSeq { inner, place: self.place, next: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(TrackedMap {
            inner,
            value: self.place.clone(),
            place: self.place,
            fields: self.fields,
        })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(inner)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Tracked<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        let place = self.place.clone();
        place.record(self.inner.deserialize(Tracked { inner, place: self.place }))
    }
}

struct TrackedSeq<'s, A> {
    inner: A,
    place: Place<'s>,
    next: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for TrackedSeq<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let place = self.place.item(self.next);
        self.next += 1;
        if !place.is_left_out() {
            return self.inner.next_element_seed(Tracked { inner: seed, place });
        }
        let Some(IgnoredAny) = self.inner.next_element()? else { return Ok(None) };
        place.record(seed.deserialize(StandIn(PhantomData))).map(Some)
    }
}

struct TrackedMap<'s, A> {
    inner: A,
    place: Place<'s>,
    /// The path of the next value.
    value: Place<'s>,
    fields: &'static [&'static str],
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for TrackedMap<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        while let Some(name) = self.place.record(self.inner.next_key::<String>())? {
            self.value = self.place.field(&name);
            let is_known = self.fields.is_empty() || self.fields.contains(&name.as_str());
            if !is_known {
                self.place.record_unknown(&name, self.fields);
            }
            if is_known && !self.value.is_left_out() {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.inner.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Tracked { inner: seed, place: self.value.clone() })
    }
}

/// Stands in for a list item that was left out, so that the items after it keep their indexes. Deserializes as an empty
/// mapping, or as the first name of an enum.
struct StandIn<E>(PhantomData<E>);

impl<'de, E: Error> Deserializer<'de> for StandIn<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(MapDeserializer::new(std::iter::empty::<(&str, &str)>()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_enum(variants.first().copied().unwrap_or_default().into_deserializer())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
