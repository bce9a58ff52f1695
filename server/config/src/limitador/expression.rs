//! Parses the part of CEL in which Limitador's conditions and variables are usually written: tests of descriptors' entries,
//! joined by `&&`, `||` and `!`.

use std::{iter::Peekable, str::Chars};

/// Maximum nesting of a condition, so that parsing needs a bounded stack.
const DEPTH_MAX: usize = 32;

/// A condition, as a tree of tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    Always,
    Test { entry: String, test: Test },
    Not(Box<Predicate>),
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
}

/// A test of an entry's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    OneOf(Vec<String>),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Matches(String),
    Present,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

/// Signs, longer ones first.
const SIGNS: [&str; 12] = ["==", "!=", "&&", "||", "!", "(", ")", "[", "]", ".", ",", "?"];

/// Parses a condition.
///
/// # Errors
/// Returns what the condition contains that cannot be converted.
pub(super) fn predicate(source: &str) -> Result<Predicate, String> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0 };
    let predicate = parser.any(0)?;
    parser.end()?;
    Ok(predicate)
}

/// Parses a variable: the name of a descriptor's entry.
///
/// # Errors
/// Returns what the variable contains that cannot be converted.
pub(super) fn variable(source: &str) -> Result<String, String> {
    let mut parser = Parser { tokens: tokens(source)?, at: 0 };
    let (entry, method) = parser.entry()?;
    if let Some(method) = method {
        return Err(format!("the function {method}"));
    }
    parser.end()?;
    Ok(entry)
}

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '\'' || c == '"' {
            chars.next();
            tokens.push(Token::Text(text(&mut chars, c)?));
        } else if c.is_ascii_digit() {
            tokens.push(Token::Number(take(&mut chars, |c| c.is_ascii_alphanumeric() || c == '.')));
        } else if c.is_ascii_alphabetic() || c == '_' {
            tokens.push(Token::Name(take(&mut chars, |c| c.is_ascii_alphanumeric() || c == '_')));
        } else {
            let rest: String = chars.clone().take(2).collect();
            let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
                return Err(format!("{c:?}"));
            };
            for _ in sign.chars() {
                chars.next();
            }
            tokens.push(Token::Sign(sign));
        }
    }
    Ok(tokens)
}

fn take(chars: &mut Peekable<Chars<'_>>, belongs: impl Fn(char) -> bool) -> String {
    let mut word = String::new();
    while let Some(c) = chars.next_if(|c| belongs(*c)) {
        word.push(c);
    }
    word
}

/// Reads a text up to its closing quote.
fn text(chars: &mut Peekable<Chars<'_>>, quote: char) -> Result<String, String> {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return Ok(text),
            '\\' => match chars.next() {
                Some(c @ ('\\' | '\'' | '"')) => text.push(c),
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(c) => return Err(format!("the escape \\{c}")),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err("a text without a closing quote".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn has(&mut self, sign: &str) -> bool {
        let has = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(has);
        has
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.has(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> String {
        match self.peek() {
            None => "an incomplete expression".to_owned(),
            Some(Token::Name(name)) => format!("the name {name}"),
            Some(Token::Text(text)) => format!("the text {text:?}"),
            Some(Token::Number(number)) => format!("the number {number}"),
            Some(Token::Sign(sign)) => format!("{sign:?}"),
        }
    }

    fn end(&self) -> Result<(), String> {
        if self.peek().is_none() { Ok(()) } else { Err(self.unexpected()) }
    }

    fn any(&mut self, depth: usize) -> Result<Predicate, String> {
        let mut parts = vec![self.all(depth)?];
        while self.has("||") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Predicate::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Predicate, String> {
        let mut parts = vec![self.one(depth)?];
        while self.has("&&") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Predicate::All(parts) })
    }

    fn one(&mut self, depth: usize) -> Result<Predicate, String> {
        if depth > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} levels"));
        }
        if self.has("!") {
            // In CEL, ! belongs to what follows directly: !a == b is (!a) == b.
            let is_clear = matches!(self.peek(), Some(Token::Sign("(" | "!")));
            let is_text = matches!(self.peek(), Some(Token::Text(_)));
            let negated = self.one(depth + 1)?;
            let compares =
                matches!(&negated, Predicate::Not(_) | Predicate::Test { test: Test::OneOf(_), .. });
            if !is_clear && (is_text || compares) {
                return Err("a ! before a comparison without parentheses".to_owned());
            }
            return Ok(Predicate::Not(Box::new(negated)));
        }
        if self.has("(") {
            let predicate = self.any(depth + 1)?;
            self.expect(")")?;
            return Ok(predicate);
        }
        match self.peek() {
            Some(Token::Text(_)) => self.text_first(),
            Some(Token::Name(name)) if name == "true" => {
                self.at += 1;
                Ok(Predicate::Always)
            }
            Some(Token::Name(name)) if name == "has" => {
                self.at += 1;
                self.expect("(")?;
                let (entry, method) = self.entry()?;
                self.expect(")")?;
                match method {
                    None => Ok(Predicate::Test { entry, test: Test::Present }),
                    Some(method) => Err(format!("the function {method}")),
                }
            }
            _ => self.entry_first(),
        }
    }

    /// Parses `'a' == ENTRY`, `'a' != ENTRY` or `'name' in descriptors[0]`.
    fn text_first(&mut self) -> Result<Predicate, String> {
        let text = self.text()?;
        if matches!(self.peek(), Some(Token::Name(name)) if name == "in") {
            self.at += 1;
            self.descriptor()?;
            return Ok(Predicate::Test { entry: text, test: Test::Present });
        }
        let negated = self.comparison()?;
        let (entry, method) = self.entry()?;
        match method {
            None => Ok(equals(entry, vec![text], negated)),
            Some(method) => Err(format!("the function {method}")),
        }
    }

    /// Parses `ENTRY == 'a'`, `ENTRY != 'a'`, `ENTRY in ['a']` or `ENTRY.function('a')`.
    fn entry_first(&mut self) -> Result<Predicate, String> {
        let (entry, method) = self.entry()?;
        if let Some(method) = method {
            self.expect("(")?;
            let text = self.text()?;
            self.expect(")")?;
            let test = match method.as_str() {
                "startsWith" => Test::Prefix(text),
                "endsWith" => Test::Suffix(text),
                "contains" => Test::Contains(text),
                "matches" => Test::Matches(text),
                other => return Err(format!("the function {other}")),
            };
            return Ok(Predicate::Test { entry, test });
        }
        if matches!(self.peek(), Some(Token::Name(name)) if name == "in") {
            self.at += 1;
            return Ok(Predicate::Test { entry, test: Test::OneOf(self.list()?) });
        }
        let negated = self.comparison()?;
        Ok(equals(entry, vec![self.text()?], negated))
    }

    /// Returns whether the comparison is `!=`.
    fn comparison(&mut self) -> Result<bool, String> {
        if self.has("==") {
            Ok(false)
        } else if self.has("!=") {
            Ok(true)
        } else {
            Err(self.unexpected())
        }
    }

    fn list(&mut self) -> Result<Vec<String>, String> {
        self.expect("[")?;
        let mut texts = Vec::new();
        while !self.has("]") {
            if !texts.is_empty() {
                self.expect(",")?;
            }
            texts.push(self.text()?);
        }
        if texts.is_empty() { Err("an empty list".to_owned()) } else { Ok(texts) }
    }

    fn text(&mut self) -> Result<String, String> {
        let Some(Token::Text(_)) = self.peek() else { return Err(self.unexpected()) };
        match self.next() {
            Some(Token::Text(text)) => Ok(text),
            _ => Err(self.unexpected()),
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let Some(Token::Name(_)) = self.peek() else { return Err(self.unexpected()) };
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(self.unexpected()),
        }
    }

    /// Parses `descriptors[0]`. Limitador's other descriptors have no equivalent.
    fn descriptor(&mut self) -> Result<(), String> {
        match self.next() {
            Some(Token::Name(name)) if name == "descriptors" => {}
            _ => {
                self.at -= 1;
                return Err(self.unexpected());
            }
        }
        self.expect("[")?;
        match self.next() {
            Some(Token::Number(number)) if number == "0" => self.expect("]"),
            Some(Token::Number(number)) => Err(format!("descriptors[{number}]")),
            _ => Err("descriptors without a number".to_owned()),
        }
    }

    /// Parses `descriptors[0]['name']`, `descriptors[0].name`, or `name.part` of Limitador 1. Returns the entry's name,
    /// and the name of a function that is called on it.
    fn entry(&mut self) -> Result<(String, Option<String>), String> {
        let mut parts = Vec::new();
        if matches!(self.peek(), Some(Token::Name(name)) if name == "descriptors") {
            self.descriptor()?;
            if self.has("[") {
                parts.push(self.text()?);
                self.expect("]")?;
            } else {
                self.expect(".")?;
                parts.push(self.name()?);
            }
            let method = if self.has(".") { Some(self.name()?) } else { None };
            if method.is_some() && !matches!(self.peek(), Some(Token::Sign("("))) {
                return Err("a field of an entry".to_owned());
            }
            return Ok((parts.remove(0), method));
        }
        parts.push(self.name()?);
        while self.has(".") {
            parts.push(self.name()?);
        }
        if parts.first().is_some_and(|root| root == "limit") {
            return Err("the limit's own fields".to_owned());
        }
        let calls = matches!(self.peek(), Some(Token::Sign("(")));
        match parts.pop() {
            Some(last) if calls && parts.is_empty() => Err(format!("the function {last}")),
            Some(last) if calls => Ok((parts.join("."), Some(last))),
            Some(last) => {
                parts.push(last);
                Ok((parts.join("."), None))
            }
            None => Err(self.unexpected()),
        }
    }
}

fn equals(entry: String, values: Vec<String>, negated: bool) -> Predicate {
    let test = Predicate::Test { entry, test: Test::OneOf(values) };
    if negated { Predicate::Not(Box::new(test)) } else { test }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_converted_is_named() {
        for (source, expected) in [
            ("descriptors[0]['x'] > '5'", "'>'"),
            ("descriptors[0].x == 5", "the number 5"),
            ("int(descriptors[0].x) == '5'", "the function int"),
            ("descriptors[1].x == 'a'", "descriptors[1]"),
            ("descriptors[0].x.size() == 'a'", "\")\""),
            ("descriptors[0].x.lowerAscii('a')", "the function lowerAscii"),
            ("descriptors[0].x == 'a' ? true : false", "':'"),
            ("descriptors[0].x.y == 'a'", "a field of an entry"),
            ("descriptors[0].x == descriptors[0].y", "the name descriptors"),
            ("limit.name == 'a'", "the limit's own fields"),
            ("x == 'a", "a text without a closing quote"),
            ("x == 'a' y", "the name y"),
            ("x in []", "an empty list"),
            ("x ==", "an incomplete expression"),
            ("", "an incomplete expression"),
            ("!descriptors[0].x == 'a'", "a ! before a comparison without parentheses"),
            ("!'x' in descriptors[0]", "a ! before a comparison without parentheses"),
            ("x == '\\u0041'", "the escape \\u"),
        ] {
            assert_eq!(predicate(source).unwrap_err(), expected, "{source}");
        }
        let deep = "(".repeat(100) + "x == 'a'" + &")".repeat(100);
        assert!(predicate(&deep).unwrap_err().contains("levels"));
        assert_eq!(variable("descriptors[0].x == 'a'").unwrap_err(), "\"==\"");
        assert_eq!(variable("descriptors[0].x.lowerAscii()").unwrap_err(), "the function lowerAscii");
    }

    #[test]
    fn entries_may_be_written_in_each_form() {
        for source in [
            "descriptors[0]['user_id']",
            "descriptors[0].user_id",
            "descriptors[0][\"user_id\"]",
            " user_id ",
        ] {
            assert_eq!(variable(source).unwrap(), "user_id", "{source}");
        }
        assert_eq!(variable("req.method").unwrap(), "req.method");
        let test = |test| Predicate::Test { entry: "x".to_owned(), test };
        for source in ["'x' in descriptors[0]", "has(descriptors[0].x)"] {
            assert_eq!(predicate(source).unwrap(), test(Test::Present), "{source}");
        }
        let is = |value: &str| test(Test::OneOf(vec![value.to_owned()]));
        assert_eq!(predicate("'a' == x").unwrap(), is("a"));
        assert_eq!(predicate("x=='it\\'s'").unwrap(), is("it's"));
        assert_eq!(
            predicate("(x == 'a' || x == 'b') && true").unwrap(),
            Predicate::All(vec![Predicate::Any(vec![is("a"), is("b")]), Predicate::Always])
        );
    }
}
