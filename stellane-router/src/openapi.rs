//! The routes as OpenAPI describes paths.

use percent_encoding::percent_decode_str;
use serde::Serialize;

use crate::{
    matcher::{constraint::Constraint, pattern::Token},
    types::{RouteInfo, RouteTable},
};

/// A route, as an OpenAPI document lists it: one operation for each method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ApiRoute {
    /// The key among `paths`: the template without constraints, `{*rest}` as `{rest}`.
    pub path: String,
    /// In lower case, as keys of a path item; empty if the route takes any.
    pub methods: Vec<String>,
    /// The host the route was declared for, for `servers`.
    pub host: Option<String>,
    /// The first name given to the route, for `operationId`.
    pub name: Option<String>,
    /// The `parameters` of the path.
    pub parameters: Vec<ApiParameter>,
}

/// A parameter object of an OpenAPI document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ApiParameter {
    /// The name.
    pub name: String,
    /// Always `path`.
    #[serde(rename = "in")]
    pub location: &'static str,
    /// Always `true`.
    pub required: bool,
    /// What the constraint accepts.
    pub schema: ApiSchema,
}

/// The schema of a parameter; what does not apply is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ApiSchema {
    /// `string` or `integer`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `uuid`, `date` or `int64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<&'static str>,
    /// A regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<&'static str>,
    /// The least integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// The greatest integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<u64>,
    /// The fewest characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u16>,
    /// The most characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u16>,
    /// The only values.
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl RouteTable {
    /// All routes as OpenAPI describes paths, in the order of their ids: data, to serialise or to add to a
    /// document.
    ///
    /// ```
    /// use stellane_router::Router;
    ///
    /// let router = Router::builder().get("/users/{id:u64}", async || "").name("user").build()?;
    /// let routes = router.table().openapi();
    /// assert_eq!((routes[0].path.as_str(), &*routes[0].methods), ("/users/{id}", &["get".to_owned()][..]));
    /// assert_eq!(routes[0].parameters[0].schema.kind, "integer");
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    #[must_use]
    pub fn openapi(&self) -> Vec<ApiRoute> {
        self.routes().map(|route| route.openapi()).collect()
    }
}

impl RouteInfo {
    fn openapi(&self) -> ApiRoute {
        let pattern = &self.table.0.entry(self.id).pattern;
        let mut params = pattern.params.iter();
        let mut path = String::new();
        let mut parameters = Vec::new();
        for token in &pattern.tokens {
            let (schema, tail) = match token {
                Token::Static(text) => {
                    path.push_str(&String::from_utf8_lossy(text));
                    continue;
                }
                Token::Param(key) => (ApiSchema::of(&key.constraint), key.tail.text().0),
                Token::Wild(_) | Token::Rest(_) => (ApiSchema::of(&Constraint::Any), &[][..]),
            };
            let name = params.next().map_or("", |param| &param.name);
            path.extend(["{", name, "}"]);
            path.push_str(&String::from_utf8_lossy(tail));
            parameters.push(ApiParameter {
                name: name.to_owned(),
                location: "path",
                required: true,
                schema,
            });
        }
        let methods = self.methods();
        ApiRoute {
            path,
            methods: methods
                .iter()
                .map(|m| m.as_str().to_ascii_lowercase())
                .collect(),
            host: self.host().map(str::to_owned),
            name: self.names().next().map(str::to_owned),
            parameters,
        }
    }
}

impl ApiSchema {
    fn of(constraint: &Constraint) -> Self {
        let string = Self {
            kind: "string",
            ..Self::default()
        };
        let integer = |format, minimum, maximum| Self {
            kind: "integer",
            format,
            minimum: Some(minimum),
            maximum: Some(maximum),
            ..Self::default()
        };
        let format = |format| Self {
            format: Some(format),
            ..string.clone()
        };
        let pattern = |pattern| Self {
            pattern: Some(pattern),
            ..string.clone()
        };
        match constraint {
            Constraint::Any => string,
            Constraint::One(options) => {
                let decoded = |o: &str| percent_decode_str(o).decode_utf8_lossy().into_owned();
                Self {
                    options: options.iter().map(|o| decoded(o)).collect(),
                    ..string
                }
            }
            Constraint::Uuid => format("uuid"),
            Constraint::Date => format("date"),
            Constraint::U32 => integer(None, 0, u32::MAX.into()),
            Constraint::U64 => integer(None, 0, u64::MAX),
            Constraint::I64 => integer(Some("int64"), i64::MIN, i64::MAX as u64),
            Constraint::Hex => pattern("^[0-9A-Fa-f]+$"),
            Constraint::Alpha => pattern("^[A-Za-z]+$"),
            Constraint::Alnum => pattern("^[0-9A-Za-z]+$"),
            Constraint::Len(least, most) => Self {
                min_length: Some(*least),
                max_length: Some(*most),
                ..string
            },
        }
    }
}
