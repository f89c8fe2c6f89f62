//! The parameters of a match as a deserializer.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;
use serde::de::{
    self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor, value::StrDeserializer,
};

use crate::{params::Params, scan};

#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) parameter: Option<Box<str>>,
    pub(crate) message: String,
    /// The type does not fit the template, whatever the client sends.
    pub(crate) server: bool,
}

impl Error {
    fn mismatch(message: String) -> Self {
        Self {
            parameter: None,
            message,
            server: true,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            parameter: None,
            message: message.to_string(),
            server: false,
        }
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        // A parameter is text: no client can send what this type wants.
        Self::mismatch(format!(
            "a parameter is {unexpected}, the type wants {expected}"
        ))
    }

    fn invalid_length(len: usize, expected: &dyn de::Expected) -> Self {
        Self::mismatch(format!("{len} parameters, the type wants {expected}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::mismatch(format!("the template has no parameter `{field}`"))
    }
}

/// All parameters of a match.
pub(crate) struct ParamsDeserializer<'a>(pub(crate) Params<'a>);

impl<'a> ParamsDeserializer<'a> {
    fn single(&self) -> Result<Value<'a>, Error> {
        let mut pairs = self.0.iter();
        match (pairs.next(), pairs.len()) {
            (Some(pair), 0) => Value::new(pair),
            _ => {
                let have = self.0.len();
                Err(Error::mismatch(format!(
                    "the template has {have} parameters, the type wants 1"
                )))
            }
        }
    }
}

macro_rules! single {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            self.single()?.$method(visitor)
        }
    )*};
}

impl<'a> Deserializer<'a> for ParamsDeserializer<'a> {
    type Error = Error;

    single! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.len() {
            1 => self.single()?.deserialize_any(visitor),
            _ => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_empty() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Pairs {
            params: self.0,
            next: 0,
        })
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let have = self.0.len();
        if have != len {
            let message = format!("the template has {have} parameters, the type wants {len}");
            return Err(Error::mismatch(message));
        }
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Pairs {
            params: self.0,
            next: 0,
        })
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.single()?.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// The parameters one after another.
struct Pairs<'a> {
    params: Params<'a>,
    next: usize,
}

impl<'a> de::SeqAccess<'a> for Pairs<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(pair) = self.params.iter().nth(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        seed.deserialize(Value::new(pair)?)
            .map(Some)
            .map_err(|e| e.at(pair.0))
    }
}

impl<'a> de::MapAccess<'a> for Pairs<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((name, _)) = self.params.iter().nth(self.next) else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let pair = self.params.iter().nth(self.next).unwrap_or_default();
        self.next += 1;
        seed.deserialize(Value::new(pair)?)
            .map_err(|e| e.at(pair.0))
    }
}

impl Error {
    /// Names the parameter, unless it is named already.
    fn at(mut self, name: &str) -> Self {
        if !self.server && self.parameter.is_none() {
            self.parameter = Some(name.into());
        }
        self
    }
}

/// One parameter, decoded.
struct Value<'a> {
    name: &'a str,
    text: Cow<'a, str>,
}

impl<'a> Value<'a> {
    fn new((name, raw): (&'a str, &'a str)) -> Result<Self, Error> {
        if scan::find(b'%', raw.as_bytes()) == raw.len() {
            let text = Cow::Borrowed(raw);
            return Ok(Self { name, text });
        }
        match percent_decode_str(raw).decode_utf8() {
            Ok(text) => Ok(Self { name, text }),
            Err(_) => Err(<Error as de::Error>::custom("escaped bytes are not UTF-8").at(name)),
        }
    }

    fn parse<T: std::str::FromStr>(&self, expected: &str) -> Result<T, Error> {
        self.text.parse().map_err(|_| {
            let message = format!("expected {expected}, got `{}`", self.text.escape_debug());
            <Error as de::Error>::custom(message).at(self.name)
        })
    }
}

macro_rules! parse {
    ($($method:ident $visit:ident $type:ty, $expected:literal;)*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            let value = self.parse::<$type>($expected)?;
            visitor.$visit(value).map_err(|e: Error| e.at(self.name))
        }
    )*};
}

impl<'a> IntoDeserializer<'a, Error> for Value<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'a> Deserializer<'a> for Value<'a> {
    type Error = Error;

    parse! {
        deserialize_bool visit_bool bool, "`true` or `false`";
        deserialize_i8 visit_i8 i8, "an integer from -128 to 127";
        deserialize_i16 visit_i16 i16, "an integer of 16 bits";
        deserialize_i32 visit_i32 i32, "an integer of 32 bits";
        deserialize_i64 visit_i64 i64, "an integer of 64 bits";
        deserialize_i128 visit_i128 i128, "an integer of 128 bits";
        deserialize_u8 visit_u8 u8, "an integer from 0 to 255";
        deserialize_u16 visit_u16 u16, "an integer from 0 to 65535";
        deserialize_u32 visit_u32 u32, "an unsigned integer of 32 bits";
        deserialize_u64 visit_u64 u64, "an unsigned integer of 64 bits";
        deserialize_u128 visit_u128 u128, "an unsigned integer of 128 bits";
        deserialize_f32 visit_f32 f32, "a number";
        deserialize_f64 visit_f64 f64, "a number";
        deserialize_char visit_char char, "one character";
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
        .map_err(|e: Error| e.at(self.name))
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant: StrDeserializer<'_, Error> = (*self.text).into_deserializer();
        variant
            .deserialize_enum(name, variants, visitor)
            .map_err(|e| e.at(self.name))
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// The name of the parameter and its value: a `Vec` of such pairs has them all.
    fn deserialize_tuple<V: Visitor<'a>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        if len != 2 {
            return Err(Error::mismatch(format!("a parameter is no tuple of {len}")));
        }
        let name = self.name;
        let pair = [Cow::Borrowed(name), self.text].map(|text| Self { name, text });
        visitor.visit_seq(de::value::SeqDeserializer::new(pair.into_iter()))
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        string bytes byte_buf unit unit_struct seq tuple_struct map struct identifier ignored_any
    }
}
