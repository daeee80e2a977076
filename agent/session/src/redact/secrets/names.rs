//! Names behind which a secret stands.

/// Names whose value is a secret, alone or as the end of a name: `--db-password`, `REDIS_AUTH`, `apiKey`.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "secret",
    "secrets",
    "token",
    "tokens",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "accountkey",
    "sharedkey",
    "sharedaccesskey",
    "credential",
    "credentials",
    "requirepass",
    "masterauth",
    "bearer",
    "cookie",
    "sessionkey",
    "storepass",
    "keypass",
    "authtoken",
    "accesstoken",
    "refreshtoken",
    "clientsecret",
    "connectionstring",
    "authorization",
    "sig",
    "signature",
    "sas",
    "jwt",
    "otp",
    "pin",
    "sessionid",
    "sid",
    "auth",
    "key64",
];

/// Names that end like one and hold none: where something is, or how it is made.
const HARMLESS_ENDS: &[&str] = &[
    "file",
    "files",
    "path",
    "dir",
    "directory",
    "name",
    "type",
    "url",
    "uri",
    "ttl",
    "size",
    "length",
    "timeout",
    "expiry",
    "issuer",
    "method",
    "mode",
    "policy",
    "provider",
    "id",
];

/// True when the value of something called `name` is a secret.
pub(in crate::redact) fn is_secret_name(name: &str) -> bool {
    // Enough for every name that is one; a longer one is data.
    if name.is_empty() || name.len() > 64 {
        return false;
    }
    let words = words(name);
    let Some(last) = words.last() else { return false };
    if HARMLESS_ENDS.contains(&last.as_str()) {
        return false;
    }
    // Those of a language model are counted.
    if last == "tokens" && words.iter().any(|word| matches!(word.as_str(), "max" | "min" | "num" | "total" | "new")) {
        return false;
    }
    if SECRET_WORDS.contains(&last.as_str()) {
        // `--compass`, `--bypass` and `pinned` are words of their own; so is a lone `sid` or `pin`.
        return !matches!(last.as_str(), "auth" | "sid" | "pin" | "sig" | "sas" | "signature") || words.len() > 1;
    }
    // `api_key`, `secretAccessKey`, `private-key`.
    if words.len() > 1 && last == "key" {
        let before = words[words.len() - 2].as_str();
        return matches!(
            before,
            "api"
                | "access"
                | "secret"
                | "private"
                | "auth"
                | "signing"
                | "encryption"
                | "master"
                | "account"
                | "shared"
        );
    }
    let joined = words.concat();
    matches!(joined.as_str(), "dbpass" | "dbpassword" | "mysqlpwd" | "pgpassword" | "rootpassword" | "userpass")
        || joined.ends_with("password")
        || joined.ends_with("passwd")
        || joined.ends_with("apikey")
        || joined.ends_with("secretkey")
        || joined.ends_with("accesskey")
}

/// The words of a name in whatever case: `dbPassword`, `DB_PASSWORD`, `db-password`, `a.b.password`.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        let parts = !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && was_lower);
        if parts && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        was_lower = c.is_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
