//! How a value looks after what programs do to text all the time: Base64, JSON, URLs, shells. Each
//! is the value's own part of an encoded text, whatever stands before and after it there.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;

/// Fewer characters of Base64 are in ordinary text, too.
const MIN_BASE64_CHARS: usize = 6;
/// Where programs break lines of Base64: `base64`, and PEM.
const BASE64_LINES: [usize; 2] = [76, 64];

/// Every encoding of the value that differs from it.
pub(super) fn all(value: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    base64(value.as_bytes(), &mut found);
    found.extend(json(value));
    found.extend(urls(value));
    found.extend(shells(value));
    found.retain(|text| !text.is_empty() && text != value.as_bytes());
    found
}

/// Three bytes are four characters, so the value looks different after 0, 1 or 2 bytes more.
/// Characters that hold bits of what stands beside it are left out, but not where nothing stands
/// there, or the line's end that `echo` adds.
fn base64(value: &[u8], found: &mut Vec<Vec<u8>>) {
    for alphabet in [&STANDARD, &URL_SAFE] {
        let engine = GeneralPurpose::new(alphabet, NO_PAD);
        for before in 0..3 {
            let text = engine.encode([&[0; 2][..before], value].concat()).into_bytes();
            let own = (before * 8).div_ceil(6)..(before + value.len()) * 8 / 6;
            found.extend(
                text.get(own).filter(|own| own.len() >= MIN_BASE64_CHARS).map(<[u8]>::to_vec),
            );
        }

        for after in ["", "\n", "\r\n"] {
            let text = engine.encode([value, after.as_bytes()].concat()).into_bytes();
            if text.len() < MIN_BASE64_CHARS {
                continue;
            }

            for width in BASE64_LINES.into_iter().filter(|width| text.len() > *width) {
                found.extend(
                    text.chunks(width)
                        .filter(|line| line.len() >= MIN_BASE64_CHARS)
                        .map(<[u8]>::to_vec),
                );
            }

            let padding = (4 - text.len() % 4) % 4;
            found.push([text.as_slice(), &b"=="[..padding]].concat());
            found.push(text);
        }
    }
}

/// As most programs write a string, in ASCII only (Python), and for a page (Go).
fn json(value: &str) -> [Vec<u8>; 3] {
    let quoted = serde_json::to_string(value).expect("a string becomes JSON");
    let plain = &quoted[1..quoted.len() - 1];
    let escaped = |is_escaped: fn(char) -> bool| {
        let mut text = String::new();
        for character in plain.chars() {
            if is_escaped(character) {
                let units = character.encode_utf16(&mut [0; 2]).to_vec();
                units.iter().for_each(|unit| write_to(&mut text, format_args!("\\u{unit:04x}")));
            } else {
                text.push(character);
            }
        }

        text.into_bytes()
    };

    let for_pages =
        escaped(|character| matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}'));
    [plain.as_bytes().to_vec(), escaped(|character| !character.is_ascii()), for_pages]
}

/// What stays as it is: of RFC 3986; of JavaScript's `encodeURIComponent`; of forms, where a space
/// is `+`; and of Python's `quote`.
const UNESCAPED: [(&str, &str); 4] =
    [("-._~", "%20"), ("-._~!'()*", "%20"), ("-._*", "+"), ("-._~/", "%20")];

fn urls(value: &str) -> impl Iterator<Item = Vec<u8>> {
    UNESCAPED.into_iter().flat_map(move |(unescaped, space)| {
        [false, true].map(|upper| {
            let mut text = String::new();
            for byte in value.bytes() {
                let character = char::from(byte);
                match byte {
                    b' ' => text.push_str(space),
                    _ if byte.is_ascii_alphanumeric() || unescaped.contains(character) => {
                        text.push(character)
                    }
                    _ if upper => write_to(&mut text, format_args!("%{byte:02X}")),
                    _ => write_to(&mut text, format_args!("%{byte:02x}")),
                }
            }

            text.into_bytes()
        })
    })
}

/// What `printf %q` of bash puts a backslash before.
const BASH_SPECIAL: &str = " \t!\"$&'()*,;<>?[\\]^`{|}";

/// Inside of single quotes in two ways, inside of double ones, by `printf %q`, and in `$'…'` as
/// bash writes control characters.
fn shells(value: &str) -> [Vec<u8>; 5] {
    let each = |write: fn(&mut String, char)| {
        let mut text = String::new();
        value.chars().for_each(|character| write(&mut text, character));
        text.into_bytes()
    };
    [
        value.replace('\'', "'\\''").into_bytes(),
        value.replace('\'', "'\"'\"'").into_bytes(),
        each(|text, character| backslashed(text, "\"$\\`", character)),
        each(|text, character| backslashed(text, BASH_SPECIAL, character)),
        each(ansi_c),
    ]
}

fn backslashed(text: &mut String, special: &str, character: char) {
    if special.contains(character) {
        text.push('\\');
    }
    text.push(character);
}

fn ansi_c(text: &mut String, character: char) {
    let letter = match character {
        '\u{07}' => 'a',
        '\u{08}' => 'b',
        '\u{0b}' => 'v',
        '\u{0c}' => 'f',
        '\u{1b}' => 'E',
        '\n' => 'n',
        '\r' => 'r',
        '\t' => 't',
        '\'' | '\\' => character,
        control if control.is_ascii_control() => {
            return write_to(text, format_args!("\\{:03o}", u32::from(control)));
        }
        other => return text.push(other),
    };
    text.extend(['\\', letter]);
}

fn write_to(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes any text");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use secrecy::SecretString;

    use super::super::Masker;

    /// One with everything that any of them escapes.
    const ODD: &str = "p@ss\"w'rd \\$x`y` <ünï>/%+&#*~!;|\u{7f}(1){2}[3]=?^,:\u{1F980}";

    fn mask(secret: &str, text: &[u8]) -> String {
        let mut masker = Masker::new(&[SecretString::from(secret)]);
        let mut shown = masker.push(text);
        shown.extend(masker.finish());
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// What programs make of the value, with the rest of the line; the value is in `$V`.
    fn made_by(program: &str, script: &str, value: &str) -> Vec<u8> {
        let output = Command::new(program)
            .args(["-c", script])
            .env("V", value)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    #[test]
    fn base64_is_masked_wherever_the_value_stands() {
        for value in
            ["hunter2", "hunter22", "hunter222", ODD, "0123456789abcdef\n".repeat(40).trim_end()]
        {
            for before in ["", "u", "us", "user:"] {
                for after in ["", "@", "@host"] {
                    let text = format!("{before}{value}{after}");
                    for script in [
                        "printf %s \"$V\" | base64 -w0",
                        "printf %s \"$V\" | base64 -w0 | tr +/ -_ | tr -d =",
                    ] {
                        let made = made_by("sh", script, &text);
                        let shown = mask(value, &made);
                        // The text beside it, and at each end a character that is of both.
                        let left = (before.len() + after.len()) * 4 / 3 + 2 + "***".len() + 2;
                        assert!(
                            shown.contains("***") && shown.len() <= left,
                            "`{text}` as `{shown}`"
                        );
                    }
                }
            }
            for script in [
                "printf %s \"$V\" | base64",
                "echo \"$V\" | base64",
                "printf %s \"$V\" | base64 -w64",
            ] {
                let shown = mask(value, &made_by("sh", script, value));
                assert!(
                    shown.lines().all(|line| line.len() < 6 || line.replace("***", "").is_empty()),
                    "`{shown}`"
                );
            }
        }
    }

    #[test]
    fn a_short_value_hides_no_ordinary_base64() {
        assert_eq!(mask("ab", b"YWI YWI= AGFi"), "YWI YWI= AGFi");
    }

    #[test]
    fn json_and_urls_are_masked() {
        let json = serde_json::to_string(&format!("<{ODD}>")).unwrap();
        assert_eq!(mask(ODD, json.as_bytes()), "\"<***>\"");
        for (value, text) in [
            (
                ODD,
                "p@ss\\\"w'rd \\\\$x`y` \
                 <\\u00fcn\\u00ef>/%+&#*~!;|\u{7f}(1){2}[3]=?^,:\\ud83e\\udd80",
            ),
            ("a<b>&c", "a\\u003cb\\u003e\\u0026c"),
            ("two\nlines", "two\\nlines"),
            ("a b/c%ü", "a%20b%2Fc%25%C3%BC"),
            ("a b/c%ü", "a%20b%2fc%25%c3%bc"),
            ("a b/c%ü", "a+b%2Fc%25%C3%BC"),
            ("a b/c%ü", "a%20b/c%25%C3%BC"),
            ("it's (good)!", "it's%20(good)!"),
            ("it's (good)!", "it%27s%20%28good%29%21"),
        ] {
            assert_eq!(
                mask(value, format!("<{text}>").as_bytes()),
                "<***>",
                "`{value}` as `{text}`"
            );
        }
    }

    #[test]
    fn what_a_shell_quotes_is_masked() {
        let many = "a'b\"c$d`e`f\\g h;i|j&k<l>m(n)o{p}q[r]s*t?u!v^w,x";
        for value in [many, "hunter 2", "it's", "tab\tand\nline"] {
            for script in [
                "printf %q \"$V\"",
                "printf %s \"${V@Q}\"",
                "declare -p V",
                "set -x; : \"$V\" 2>&1",
                "( set -x; true \"$V\" ) 2>&1",
            ] {
                let shown = mask(value, &made_by("bash", script, value));
                let left: String = shown.replace("***", "");
                for word in ["hunter", "it\\'s", "it's", "tab", "line", "b\\\"c", "g h", "n\\)o"] {
                    assert!(!left.contains(word), "`{value}` by `{script}`: `{shown}`");
                }
            }
        }
    }
}
