//! What a server of this protocol understands: found out by its refusals, and remembered for as long as the process lives.

use serde_json::{Map, Value, json};

use super::assets::SCHEMA;

/// How the answer's form is asked for, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StructuredOutput {
    /// `response_format: json_schema`, strict.
    JsonSchema,
    /// `response_format: json_object`, and the schema in the prompt.
    JsonObject,
    /// Only the schema in the prompt.
    Text,
}

impl StructuredOutput {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::JsonSchema => "json_schema",
            Self::JsonObject => "json_object",
            Self::Text => "text",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::JsonSchema, Self::JsonObject, Self::Text].into_iter().find(|mode| mode.as_str() == text)
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::JsonSchema => Some(Self::JsonObject),
            Self::JsonObject => Some(Self::Text),
            Self::Text => None,
        }
    }
}

/// A part of a request that a server may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parameter {
    ResponseFormat,
    MaxTokens,
    Temperature,
}

/// How one endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) structured_output: StructuredOutput,
    /// The operator has chosen the form; it is kept.
    pub(crate) is_fixed: bool,
    /// `max_completion_tokens` for `max_tokens`: models that reason want it.
    pub(crate) completion_tokens: bool,
    pub(crate) sends_temperature: bool,
}

impl Dialect {
    pub(crate) fn new(fixed: Option<StructuredOutput>) -> Self {
        Self {
            structured_output: fixed.unwrap_or(StructuredOutput::JsonSchema),
            is_fixed: fixed.is_some(),
            completion_tokens: false,
            sends_temperature: true,
        }
    }

    /// What to try after a refusal that named `parameter`, or nothing; `None` where there is nothing left to try. Each step is taken
    /// once, so trying ends.
    pub(crate) fn stepped_down(self, parameter: Option<Parameter>) -> Option<Self> {
        match parameter {
            Some(Parameter::MaxTokens) => (!self.completion_tokens).then_some(Self { completion_tokens: true, ..self }),
            Some(Parameter::Temperature) => self.sends_temperature.then_some(Self { sends_temperature: false, ..self }),
            Some(Parameter::ResponseFormat) | None => {
                let next = self.structured_output.next().filter(|_| !self.is_fixed)?;
                Some(Self { structured_output: next, ..self })
            }
        }
    }

    /// Whether the prompt must hold the schema.
    pub(crate) fn needs_form_in_prompt(self) -> bool {
        self.structured_output != StructuredOutput::JsonSchema
    }

    /// Adds what this endpoint understands to a request.
    pub(crate) fn apply(self, request: &mut Map<String, Value>, max_output_tokens: u32, temperature: f64) {
        let name = if self.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        request.insert(name.to_owned(), max_output_tokens.into());
        if self.sends_temperature {
            request.insert("temperature".to_owned(), temperature.into());
        }
        let format = match self.structured_output {
            StructuredOutput::JsonSchema => {
                json!({"type": "json_schema", "json_schema": {"name": "memory", "strict": true, "schema": &*SCHEMA}})
            }
            StructuredOutput::JsonObject => json!({"type": "json_object"}),
            StructuredOutput::Text => return,
        };
        request.insert("response_format".to_owned(), format);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Dialect, Parameter, StructuredOutput};

    #[test]
    fn stepping_down_ends_and_keeps_what_the_operator_chose() {
        let mut dialect = Dialect::new(None);
        let mut seen = vec![dialect.structured_output.as_str()];
        while let Some(next) = dialect.stepped_down(None) {
            seen.push(next.structured_output.as_str());
            dialect = next;
        }
        assert_eq!(seen, ["json_schema", "json_object", "text"]);
        assert_eq!(Dialect::new(Some(StructuredOutput::JsonSchema)).stepped_down(Some(Parameter::ResponseFormat)), None);
        for parameter in [Parameter::MaxTokens, Parameter::Temperature] {
            let once = Dialect::new(None).stepped_down(Some(parameter)).unwrap();
            assert_eq!(once.stepped_down(Some(parameter)), None);
        }
    }

    #[test]
    fn a_request_says_what_the_endpoint_understands() {
        let of = |dialect: Dialect| {
            let mut request = Map::new();
            dialect.apply(&mut request, 100, 0.5);
            Value::Object(request)
        };
        let first = of(Dialect::new(None));
        assert_eq!((&first["max_tokens"], &first["temperature"]), (&json!(100), &json!(0.5)));
        assert_eq!(first["response_format"]["json_schema"]["strict"], json!(true));
        let last = Dialect { completion_tokens: true, sends_temperature: false, ..Dialect::new(Some(StructuredOutput::Text)) };
        assert_eq!(of(last), json!({"max_completion_tokens": 100}));
    }
}
