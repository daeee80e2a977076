//! From text to an expression.

use std::fmt;

/// An expression that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expr {
    Literal(Literal),
    Name(String),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    /// `a.b`, or `a.?b` if optional.
    Member {
        of: Box<Expr>,
        key: String,
        optional: bool,
    },
    /// `a[b]`, or `a[?b]` if optional.
    Index {
        of: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    /// `has(a.b)`.
    Has {
        of: Box<Expr>,
        key: String,
    },
    /// `f(a)`, or `a.f(b)` with `a` first.
    Call {
        name: &'static str,
        arguments: Vec<Expr>,
    },
    /// `a.all(x, p)` and its like.
    Macro {
        name: &'static str,
        of: Box<Expr>,
        variable: String,
        bodies: Vec<Expr>,
    },
    Unary {
        operator: char,
        of: Box<Expr>,
    },
    Binary {
        operator: &'static str,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    If {
        condition: Box<Expr>,
        yes: Box<Expr>,
        no: Box<Expr>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The character at which it was noticed, from 1.
    pub column: usize,
    /// What is wrong.
    pub words: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {} of the expression: {}", self.column, self.words)
    }
}

impl std::error::Error for SyntaxError {}

/// Functions by name, with how many arguments they take, the receiver among them.
pub(crate) const FUNCTIONS: &[(&str, usize, usize)] = &[
    ("asBytes", 1, 1),
    ("asPercent", 1, 1),
    ("asTime", 1, 1),
    ("contains", 2, 2),
    ("culprit", 1, 1),
    ("diff", 2, 2),
    ("dirname", 1, 1),
    ("distinct", 1, 1),
    ("duration", 1, 1),
    ("elapsed", 2, 2),
    ("endsWith", 2, 2),
    ("first", 1, 1),
    ("flatten", 1, 1),
    ("hasValue", 1, 1),
    ("int", 1, 1),
    ("isSorted", 1, 1),
    ("join", 1, 2),
    ("keys", 1, 1),
    ("last", 1, 1),
    ("lowerAscii", 1, 1),
    ("max", 1, 1),
    ("min", 1, 1),
    ("orValue", 2, 2),
    ("reverse", 1, 1),
    ("size", 1, 1),
    ("slice", 3, 3),
    ("split", 2, 2),
    ("startsWith", 2, 2),
    ("string", 1, 1),
    ("sum", 1, 1),
    ("take", 2, 2),
    ("type", 1, 1),
    ("value", 1, 1),
];

/// Macros by name, with how many expressions they take beside the variable.
pub(crate) const MACROS: &[(&str, usize, usize)] = &[
    ("all", 1, 1),
    ("countBy", 1, 2),
    ("exists", 1, 1),
    ("existsOne", 1, 1),
    ("exists_one", 1, 1),
    ("filter", 1, 1),
    ("map", 1, 2),
    ("sortBy", 1, 1),
];

/// An expression may be nested so deep: one from a stranger must not use up the stack.
const DEEPEST: usize = 100;

/// The most words and signs of one expression, for the same reason.
const LONGEST: usize = 1000;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Int(i64),
    Text(String),
    Name(String),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", ".?", "[?", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(",
    ")", "[", "]", "{", "}",
];

/// Reads `text` as an expression.
///
/// # Errors
///
/// When it is none.
pub(crate) fn parse(text: &str) -> Result<Expr, SyntaxError> {
    let tokens = tokens(text)?;
    if let Some((_, column)) = tokens.get(LONGEST) {
        return Err(SyntaxError {
            column: column + 1,
            words: "it is too long: name parts of it in variables".to_owned(),
        });
    }
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let expression = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(expression),
        other => Err(parser.wrong(&format!("nothing more was expected, but there is {}", other.words()))),
    }
}

impl Token {
    fn words(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Name(name) => name.clone(),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, SyntaxError> {
    let characters: Vec<char> = text.chars().collect();
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let start = at;
        let wrong = |words: &str| SyntaxError { column: start + 1, words: words.to_owned() };
        if character.is_whitespace() {
            at += 1;
        } else if characters[at..].starts_with(&['/', '/']) {
            while characters.get(at).is_some_and(|character| *character != '\n') {
                at += 1;
            }
        } else if character.is_ascii_digit() {
            while characters.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                at += 1;
            }
            let digits: String = characters[start..at].iter().collect();
            let number = match digits.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16),
                None => digits.parse(),
            };
            all.push((Token::Int(number.map_err(|_| wrong("a number must be a whole one of 64 bits"))?), start));
        } else if character.is_ascii_alphabetic() || character == '_' {
            while characters.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                at += 1;
            }
            all.push((Token::Name(characters[start..at].iter().collect()), start));
        } else if character == '"' || character == '\'' {
            let (text, end) =
                string(&characters, at).ok_or_else(|| wrong("the string does not end, or has an unknown escape"))?;
            at = end;
            all.push((Token::Text(text), start));
        } else {
            let sign = SIGNS.iter().find(|sign| {
                let sign: Vec<char> = sign.chars().collect();
                characters[at..].starts_with(&sign)
            });
            // `a ? b : c` with `b` a list or a member that begins with a dot does not occur; `x.?y` does.
            let sign = sign.ok_or_else(|| wrong(&format!("`{character}` has no meaning here")))?;
            at += sign.len();
            all.push((Token::Sign(sign), start));
        }
    }
    all.push((Token::End, characters.len()));
    Ok(all)
}

/// The string that begins with the quote at `at`, and where it ends.
fn string(characters: &[char], at: usize) -> Option<(String, usize)> {
    let quote = characters[at];
    let mut text = String::new();
    let mut at = at + 1;
    loop {
        match *characters.get(at)? {
            character if character == quote => return Some((text, at + 1)),
            '\\' => {
                at += 1;
                text.push(match characters.get(at)? {
                    'n' => '\n',
                    't' => '\t',
                    escaped @ ('\\' | '\'' | '"') => *escaped,
                    _ => return None,
                });
            }
            character => text.push(character),
        }
        at += 1;
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

type Parsed = Result<Expr, SyntaxError>;

/// Binary operators, loosest first; those of one level are taken from the left.
const LEVELS: [&[&str]; 5] =
    [&["||"], &["&&"], &["==", "!=", "<=", ">=", "<", ">", "in"], &["+", "-"], &["*", "/", "%"]];

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |token| &token.0)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn wrong(&self, words: &str) -> SyntaxError {
        let column = self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |token| token.1);
        SyntaxError { column: column + 1, words: words.to_owned() }
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Token::Sign(one) if *one == sign);
        self.at += usize::from(is);
        is
    }

    fn must(&mut self, sign: &str) -> Result<(), SyntaxError> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.wrong(&format!("`{sign}` was expected, but there is {}", self.peek().words())))
    }

    fn name(&mut self) -> Result<String, SyntaxError> {
        match self.peek().clone() {
            Token::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            other => Err(self.wrong(&format!("a name was expected, but there is {}", other.words()))),
        }
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("it is nested too deep"));
        }
        let condition = self.binary(0)?;
        let expression = if self.takes("?") {
            let yes = self.binary(0)?;
            self.must(":")?;
            let no = self.expression()?;
            Expr::If { condition: Box::new(condition), yes: Box::new(yes), no: Box::new(no) }
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        let mut count = 0;
        loop {
            let operator = operators.iter().find(|operator| match self.peek() {
                Token::Sign(sign) => sign == *operator,
                Token::Name(name) => name == *operator,
                _ => false,
            });
            let Some(operator) = operator else { return Ok(left) };
            count += 1;
            if count > DEEPEST {
                return Err(self.wrong("it has too many operators in a row"));
            }
            self.at += 1;
            let right = self.binary(level + 1)?;
            left = Expr::Binary { operator, left: Box::new(left), right: Box::new(right) };
        }
    }

    fn unary(&mut self) -> Parsed {
        for (sign, operator) in [("!", '!'), ("-", '-')] {
            if self.takes(sign) {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err(self.wrong("it is nested too deep"));
                }
                let of = Box::new(self.unary()?);
                self.depth -= 1;
                return Ok(Expr::Unary { operator, of });
            }
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut expression = self.primary()?;
        let mut count = 0;
        loop {
            count += 1;
            if count > DEEPEST {
                return Err(self.wrong("it has too many members in a row"));
            }
            if self.takes(".?") {
                expression = Expr::Member { of: Box::new(expression), key: self.name()?, optional: true };
            } else if self.takes(".") {
                let key = self.name()?;
                expression = if self.takes("(") {
                    self.method(expression, &key)?
                } else {
                    Expr::Member { of: Box::new(expression), key, optional: false }
                };
            } else if self.takes("[?") {
                expression = self.index(expression, true)?;
            } else if self.takes("[") {
                expression = self.index(expression, false)?;
            } else {
                return Ok(expression);
            }
        }
    }

    fn index(&mut self, of: Expr, optional: bool) -> Parsed {
        let index = Box::new(self.expression()?);
        self.must("]")?;
        Ok(Expr::Index { of: Box::new(of), index, optional })
    }

    fn method(&mut self, of: Expr, key: &str) -> Parsed {
        if let Some((name, least, most)) = MACROS.iter().find(|known| known.0 == key) {
            let mut arguments = self.arguments(")")?;
            let variable = match arguments.first() {
                Some(Expr::Name(variable)) => variable.clone(),
                _ => return Err(self.wrong(&format!("the first argument of {key} must be a name"))),
            };
            arguments.remove(0);
            if !(*least..=*most).contains(&arguments.len()) {
                return Err(self.wrong(&format!("{key} takes another number of arguments")));
            }
            return Ok(Expr::Macro { name, of: Box::new(of), variable, bodies: arguments });
        }
        let mut arguments = vec![of];
        arguments.extend(self.arguments(")")?);
        self.call(key, arguments)
    }

    fn call(&self, key: &str, arguments: Vec<Expr>) -> Parsed {
        let Some((name, least, most)) = FUNCTIONS.iter().find(|known| known.0 == key) else {
            let names = FUNCTIONS.iter().chain(MACROS).map(|known| known.0);
            let near =
                crate::near::nearest(key, names).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(self.wrong(&format!("there is no function {key}{near}")));
        };
        if !(*least..=*most).contains(&arguments.len()) {
            return Err(self.wrong(&format!("{key} takes another number of arguments")));
        }
        Ok(Expr::Call { name, arguments })
    }

    fn arguments(&mut self, end: &str) -> Result<Vec<Expr>, SyntaxError> {
        let mut all = Vec::new();
        while !self.takes(end) {
            all.push(self.expression()?);
            if !self.takes(",") {
                self.must(end)?;
                break;
            }
        }
        Ok(all)
    }

    fn primary(&mut self) -> Parsed {
        match self.next() {
            Token::Int(number) => Ok(Expr::Literal(Literal::Int(number))),
            Token::Text(text) => Ok(Expr::Literal(Literal::Text(text))),
            Token::Name(name) => self.named(&name),
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.must(")")?;
                Ok(inner)
            }
            Token::Sign("[") => Ok(Expr::List(self.arguments("]")?)),
            Token::Sign("{") => self.map(),
            other => {
                self.at -= 1;
                Err(self.wrong(&format!("a value was expected, but there is {}", other.words())))
            }
        }
    }

    fn named(&mut self, name: &str) -> Parsed {
        match name {
            "true" | "false" => return Ok(Expr::Literal(Literal::Bool(name == "true"))),
            "null" => return Ok(Expr::Literal(Literal::Null)),
            "in" => return Err(self.wrong("`in` stands between two values")),
            _ => {}
        }
        if !self.takes("(") {
            return Ok(Expr::Name(name.to_owned()));
        }
        let mut arguments = self.arguments(")")?;
        if name != "has" {
            return self.call(name, arguments);
        }
        match (arguments.pop(), arguments.is_empty()) {
            (Some(Expr::Member { of, key, optional: false }), true) => Ok(Expr::Has { of, key }),
            _ => Err(self.wrong("has takes one member, as in has(a.b)")),
        }
    }

    fn map(&mut self) -> Parsed {
        let mut all = Vec::new();
        while !self.takes("}") {
            let key = self.expression()?;
            self.must(":")?;
            all.push((key, self.expression()?));
            if !self.takes(",") {
                self.must("}")?;
                break;
            }
        }
        Ok(Expr::Map(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_expression_is_an_error_that_says_where() {
        let wrong = |text: &str| parse(text).expect_err(text).to_string();
        assert_eq!(wrong("1 +"), "column 4 of the expression: a value was expected, but there is the end");
        assert!(wrong("a.b.sizes()").contains("no function sizes; did you mean size?"), "{}", wrong("a.b.sizes()"));
        assert!(wrong("a b").starts_with("column 3"));
        assert!(wrong("'a").contains("does not end"));
        assert!(wrong("1.5 > 2").contains("column"));
        assert!(wrong("99999999999999999999").contains("64 bits"));
        assert!(wrong("has(a)").contains("has takes one member"));
        assert!(wrong("a.all(1, true)").contains("must be a name"));
        assert!(wrong("size()").contains("number of arguments"));
        assert!(wrong("a § b").contains("has no meaning"));
        assert!(wrong("in").contains("stands between"));
    }

    #[test]
    fn nothing_from_a_stranger_uses_up_the_stack() {
        for (open, close) in
            [("(", ")"), ("[", "]"), ("!", ""), ("-", ""), ("a.all(x, ", ")"), ("{1:", "}"), ("true?1:", "")]
        {
            let text = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
            assert!(parse(&text).is_err(), "{open}");
        }
        assert!(parse(&format!("a{}", ".b".repeat(20_000))).is_err());
        assert!(parse(&vec!["1"; 20_000].join("+")).is_err());
    }

    #[test]
    fn every_function_is_found_by_its_name() {
        for (name, least, _) in FUNCTIONS {
            let arguments = vec!["1"; *least].join(", ");
            assert!(parse(&format!("{name}({arguments})")).is_ok(), "{name}");
        }
    }
}
