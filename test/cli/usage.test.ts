/** How the command line answers a call for help, and one that it does not understand. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { dynamos } from "../support/command.ts";

const COMMANDS = ["up", "demo", "doctor", "ask", "dead-letters", "data", "steward"];

describe("dynamos", () => {
  for (const command of COMMANDS) {
    test(`${command} says how it is called, and does nothing else, when it is asked for help`, async () => {
      const { code, stdout, stderr } = await dynamos(command, command.startsWith("d") ? "-h" : "--help");
      assert.deepEqual([code, stderr], [0, ""]);
      assert.match(stdout, new RegExp(`^Use:\n +dynamos ${command} `));
      assert.doesNotMatch(stdout, new RegExp(`dynamos (${COMMANDS.filter((other) => other !== command).join("|")}) `));
    });

    test(`${command} names an option that it does not know, and says how it is called`, async () => {
      // data and steward have commands of their own in front of their options.
      const own = { data: ["propose"], steward: ["list"] }[command] ?? [];
      const { code, stdout, stderr } = await dynamos(command, ...own, "--not-an-option");
      assert.deepEqual([code, stdout], [2, ""]);
      assert.match(stderr, /^Unknown option '--not-an-option'.*\[invalid_argument\]\nUse:\n/);
      assert.ok(stderr.includes(`dynamos ${command} `), stderr);
    });
  }

  test("without a command, with help and with --help, lists all commands", async () => {
    const [none, ...others] = await Promise.all([dynamos(), dynamos("help"), dynamos("--help"), dynamos("-h")]);
    assert.deepEqual([none.code, none.stderr], [0, ""]);
    for (const command of COMMANDS) assert.ok(none.stdout.includes(`\n  dynamos ${command} `), command);
    for (const other of others) assert.deepEqual(other, none);
  });

  test("names a command that there is not, on standard error", async () => {
    const { code, stdout, stderr } = await dynamos("serve");
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, /^There is no command "serve"\.\n\ndynamos: /);
  });

  const wrong: readonly (readonly [args: readonly string[], said: RegExp])[] = [
    [["up", "--port", "70000"], /^--port 70000 is no port: 0 to 65535\. \[invalid_argument\]\nUse:/],
    [["ask", "one.json", "two.json"], /^dynamos ask takes one file\. \[invalid_argument\]\nUse:/],
    [["ask", "--wait", "soon"], /^--wait soon: write a number of seconds\. \[invalid_argument\]\nUse:/],
    [["dead-letters", "--limit", "0"], /^--limit 0: write a number from 1\. \[invalid_argument\]\nUse:/],
    [["doctor", "--namespace", "core"], /^--namespace and --try-network go with --kubernetes\. .*\nUse:/],
  ];
  for (const [args, said] of wrong) {
    test(`${args.join(" ")} is no call, which it says with what would be one`, async () => {
      const { code, stdout, stderr } = await dynamos(...args);
      assert.deepEqual([code, stdout], [2, ""]);
      assert.match(stderr, said);
    });
  }
});
