//! A secret in a task's environment, and masked in its log.

use std::process::ExitCode;

use gofer_sdk::{Pipeline, Task, secret};

fn main() -> ExitCode {
    // The pipeline names the secret; its value never is in the program, in the registered version
    // or in an event.
    let greet = Task::new("greet")
        .variable("TOKEN", secret("greeting_token"))
        // The log shows `***` in its place, to every reader at any time.
        .script("echo \"the token is $TOKEN\"\necho \"it has ${#TOKEN} characters\"");

    // It can be a part of a value, too.
    let connect = Task::new("connect")
        .variable("URL", format!("https://robot:{}@greetings.example.com/", secret("greeting_token")))
        .script("echo \"would connect to $URL\"")
        .depends_on(&greet);

    Pipeline::new("secrets").description("Uses the secret `greeting_token`.").tasks([greet, connect]).run()
}
