use std::collections::HashMap;
use std::fmt;

#[derive(Debug, Clone, PartialEq)]
pub enum Token<'a> {
    Ident(&'a str),
    Number(f64),
    Symbol(char),
}

#[derive(Debug)]
pub struct ParseError {
    pub offset: usize,
    pub expected: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {} at byte {}", self.expected, self.offset)
    }
}

pub struct Lexer<'a> {
    source: &'a str,
    position: usize,
    interned: HashMap<&'a str, u32>,
}

impl<'a> Lexer<'a> {
    pub fn new(source: &'a str) -> Self {
        Self { source, position: 0, interned: HashMap::with_capacity(64) }
    }

    fn take_while<F: Fn(char) -> bool>(&mut self, accept: F) -> &'a str {
        let rest = &self.source[self.position..];
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.position += end;
        &rest[..end]
    }

    pub fn next_token(&mut self) -> Result<Option<Token<'a>>, ParseError> {
        self.take_while(char::is_whitespace);
        let Some(first) = self.source[self.position..].chars().next() else {
            return Ok(None);
        };
        match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let name = self.take_while(|c| c.is_alphanumeric() || c == '_');
                let next = self.interned.len() as u32;
                self.interned.entry(name).or_insert(next);
                Ok(Some(Token::Ident(name)))
            }
            '0'..='9' => {
                let offset = self.position;
                let digits = self.take_while(|c| c.is_ascii_digit() || c == '.');
                digits.parse().map(|n| Some(Token::Number(n)))
                    .map_err(|_| ParseError { offset, expected: "a number" })
            }
            other => {
                self.position += other.len_utf8();
                Ok(Some(Token::Symbol(other)))
            }
        }
    }
}
