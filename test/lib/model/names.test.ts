import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  isRunOf,
  jobNameForLogs,
  makeJobName,
  makeLocalJobName,
  makeRunName,
  makeRunNonce,
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
