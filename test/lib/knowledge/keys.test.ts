import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import * as keySpace from "../../../lib/knowledge/keys.ts";
import {
  type KeyPattern,
  agentRequestKeys,
  agreementKeys,
  jobKeys,
  onlineKeys,
  queueInfoKeys,
} from "../../../lib/knowledge/keys.ts";

const patterns: readonly KeyPattern<string>[] = Object.values(keySpace);

/** Any part: names as people have them, names that look like parts of keys, and any other well-formed string. */
const part = fc.oneof(
  fc.constantFrom(
    "VU",
    "VUB",
    "queueInfo",
    "jobs",
    "online",
    "chainMetadata",
    "..",
    "%71ueueInfo",
    "analyst@example.org",
  ),
  fc.string({ minLength: 1, unit: "grapheme" }),
);

function partNames(pattern: KeyPattern<string>): string[] {
  return [...pattern.template.matchAll(/\{(.*?)\}/g)].map((match) => match[1] ?? "");
}

test("keys are spelled as the contracts say", () => {
  assert.equal(onlineKeys.key({ party: "VU", instanceId: "i1" }), "/agents/online/VU/i1");
  assert.equal(
    jobKeys.key({ party: "VU", userName: "jane@example.org", jobName: "jane-1" }),
    "/agents/jobs/VU/jane%40example.org/jane-1",
  );
  assert.equal(queueInfoKeys.key({ party: "VU", localJobName: "jane-1" }), "/agents/jobs/VU/queueInfo/jane-1");
  assert.equal(agreementKeys.key({ steward: "VU" }), "/policyEnforcer/agreements/VU");
  assert.equal(agreementKeys.prefix(), "/policyEnforcer/agreements/");
  assert.equal(agentRequestKeys.prefix({ party: "VU", userName: "a/b" }), "/agents/requests/VU/a%2Fb/");
});

test("a user called queueInfo has jobs of their own", () => {
  const key = jobKeys.key({ party: "VU", userName: "queueInfo", jobName: "j" });
  assert.notEqual(key, queueInfoKeys.key({ party: "VU", localJobName: "j" }));
  assert.equal(queueInfoKeys.parse(key), undefined);
  assert.equal(jobKeys.parse(key)?.userName, "queueInfo");
  assert.equal(jobKeys.parse(queueInfoKeys.key({ party: "VU", localJobName: "j" })), undefined);
});

test("every key gives back its parts, starts with its prefixes, and is of no other kind", () => {
  fc.assert(
    fc.property(fc.constantFrom(...patterns), fc.array(part, { minLength: 3, maxLength: 3 }), (pattern, values) => {
      const names = partNames(pattern);
      const parts = Object.fromEntries(names.map((name, index) => [name, values[index] ?? ""]));
      const key = pattern.key(parts);
      assert.deepEqual(pattern.parse(key), parts);
      for (let known = 0; known < names.length; known++) {
        const leading = Object.fromEntries(names.slice(0, known).map((name) => [name, parts[name] ?? ""]));
        assert.ok(key.startsWith(pattern.prefix(leading)));
      }
      assert.deepEqual(
        patterns.filter((other) => other.parse(key) !== undefined).map(({ template }) => template),
        [pattern.template],
      );
    }),
  );
});

test("an empty part, a lone surrogate, and a prefix without an open part are refused", () => {
  const refused = { code: "invalid_argument" };
  assert.throws(() => agreementKeys.key({ steward: "" }), refused);
  assert.throws(() => agreementKeys.key({ steward: "\ud800" }), refused);
  assert.throws(() => agreementKeys.prefix({ steward: "VU" }), refused);
});

test("what nobody wrote is not a key", () => {
  for (const key of ["", "/", "/archetypes/", "/archetypes/a/b", "/archetypes/%", "/archetypes/%61", "archetypes/a"]) {
    assert.equal(keySpace.archetypeKeys.parse(key), undefined, key);
  }
});
