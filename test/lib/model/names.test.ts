import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { chainWorkQueue } from "../../../lib/bus/queues.ts";
import {
  chainNamePattern,
  isRunOf,
  jobNameForLogs,
  makeChainName,
  makeJobName,
  makeLocalJobName,
  makeRunName,
  makeRunNonce,
  makeShapeKey,
  readChainName,
  workQueuePattern,
} from "../../../lib/model/names.ts";

const DNS_LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

describe("job names", () => {
  test("any user name gives a name that Kubernetes takes, with 8 hexadecimal digits at its end", () => {
    for (const userName of [
      "anna@example.org",
      "Ünï Cödé",
      "",
      "-x-",
      "123",
      "a".repeat(200),
      "queueInfo",
      "../../etc",
    ]) {
      const name = makeJobName(userName, "0123abcd");
      assert.match(name, DNS_LABEL);
      assert.match(name, /^[a-z].*-0123abcd$/);
      assert.equal(jobNameForLogs(name), "0123abcd");
    }
  });
});

describe("run names", () => {
  const requests = ["018f0000-aaaa-7000-8000-000000000001", "018f0000-aaaa-7000-8000-000000000002"] as const;

  test("requests whose ids begin alike, as those of one millisecond do, have runs of their own", () => {
    assert.notEqual(
      makeRunName("anna-0123abcd-vu", requests[0], 1, "aaaaa"),
      makeRunName("anna-0123abcd-vu", requests[1], 1, "aaaaa"),
    );
  });

  test("the same attempt at the same request, executed again, has a name of its own", () => {
    const names = new Set([1, 2, 3].map(() => makeRunName("anna-0123abcd-vu", requests[0], 1, makeRunNonce())));
    assert.equal(names.size, 3);
  });

  test("they are DNS labels of at most 63 characters, whatever the steward's name", () => {
    const local = makeLocalJobName(makeJobName("a".repeat(60), "0123abcd"), "S".repeat(63));
    const name = makeRunName(local, requests[0], 999, makeRunNonce());
    assert.match(name, DNS_LABEL);
    assert.ok(name.length <= 63, String(name.length));
  });

  test("stewards whose long names begin alike are told apart", () => {
    const [left, right] = ["UniversityMedicalCentreNorth", "UniversityMedicalCentreSouth"].map((steward) =>
      makeLocalJobName("anna-0123abcd", steward),
    ) as [string, string];
    assert.notEqual(left, right);
    assert.equal(isRunOf(makeRunName(left, requests[0], 1, "aaaaa"), "UniversityMedicalCentreNorth"), true);
    assert.equal(isRunOf(makeRunName(right, requests[0], 1, "aaaaa"), "UniversityMedicalCentreNorth"), false);
    assert.equal(isRunOf(`${makeRunName(left, requests[0], 1, "aaaaa")}-reply`, "UniversityMedicalCentreNorth"), false);
    assert.equal(isRunOf("someQueue-in", "UniversityMedicalCentreNorth"), false);
  });
});

describe("names made with a shape's key", () => {
  const key = makeShapeKey("a shape");
  const stewards = ["VU", "S".repeat(17), "S".repeat(28), "S".repeat(29), "S".repeat(63)];

  test("tell shapes apart by 64 bits at least", () => {
    const digits = key.replaceAll("-", "");
    assert.match(digits, /^[0-9a-f]+$/);
    assert.ok(digits.length * 4 >= 64, `${String(digits.length * 4)} bits`);
    const keys = new Set(Array.from({ length: 1000 }, (_, index) => makeShapeKey(String(index))));
    for (const part of [0, 1]) assert.equal(new Set([...keys].map((each) => each.split("-")[part])).size, 1000);
  });

  for (const steward of stewards) {
    test(`are DNS labels of at most 63 characters, and known as its own, of a steward with ${String(steward.length)} letters`, () => {
      const warm = makeRunName(makeLocalJobName(`warm-${key}`, steward), "request", 999, makeRunNonce());
      const chain = makeChainName(steward, key, 999, 999_999);
      for (const name of [`chain-${key}`, warm, chain, chainWorkQueue(steward, key)]) assert.match(name, DNS_LABEL);
      assert.ok(isRunOf(warm, steward), warm);
      assert.match(chain, new RegExp(`^${chainNamePattern([steward])}$`));
      assert.match(chainWorkQueue(steward, key), new RegExp(`^${workQueuePattern([steward])}$`));
      assert.deepEqual(readChainName(chain), { slot: 999, generation: 999_999 });
      for (const name of [warm, chain, chainWorkQueue(steward, key)]) assert.ok(name.includes(key), name);
    });
  }
});
