import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { parseEtcdUrl, readCredentials } from "../../../lib/knowledge/etcd-url.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("a URL names members, user, key prefix and files", () => {
  assert.deepEqual(parseEtcdUrl("etcd://one:2379"), { endpoints: ["one:2379"], isTls: false, prefix: "", files: {} });
  assert.deepEqual(
    parseEtcdUrl(
      "etcds://VU@one:1,two,[::1]:3/exchanges/a%20b/?passwordFile=/run/p%20w&caFile=ca&certFile=c&keyFile=k",
    ),
    {
      endpoints: ["one:1", "two:2379", "[::1]:3"],
      isTls: true,
      prefix: "/exchanges/a b",
      user: "VU",
      files: { passwordFile: "/run/p w", caFile: "ca", certFile: "c", keyFile: "k" },
    },
  );
  const { user, password } = parseEtcdUrl("etcd://a%40b:p%3A%2Fq:r@one");
  assert.deepEqual([user, password], ["a@b", "p:/q:r"]);
});

test("a wrong URL is refused, saying what to change and no password", () => {
  const wrong: readonly (readonly [string, RegExp])[] = [
    ["etcd://", /form etcd:\/\//],
    ["etcd://user:secret@", /form etcd:\/\//],
    ["etcd://user:sec@ret@one", /%40/],
    ["etcd://user:secret@one:0", /host:port/],
    ["etcd://user:secret@one:70000", /"one:70000" is not/],
    ["etcd://user:secret@one,", /host:port/],
    ["etcd://user:secret%@one", /password is not percent-encoded/],
    ["etcd://:secret@one", /empty user/],
    ["etcd://user@one", /"user" has no password: name a passwordFile/],
    ["etcd://one?passwordFile=f", /needs a user/],
    ["etcd://user:secret@one?passwordFile=f", /keep one/],
    ["etcd://one?caFile=f", /caFile is for TLS: write etcds/],
    ["etcds://one?certFile=f", /certFile and keyFile come together/],
    ["etcds://one?caFile=", /caFile is empty/],
    ["etcds://one?caFile=a&caFile=b", /caFile twice/],
    ["etcds://user:secret@one?cafile=a", /unknown option "cafile"; known are passwordFile, caFile, certFile, keyFile/],
    ["etcds://one#x", /form/],
  ];
  for (const [url, message] of wrong) {
    assert.throws(
      () => parseEtcdUrl(url),
      (error: Error & { code: string }) => {
        assert.equal(error.code, "configuration_invalid");
        assert.match(error.message, message);
        assert.doesNotMatch(error.message, /sec|ret/);
        return true;
      },
    );
  }
});

test("files are read each time; one that cannot be read is named", async () => {
  const file = join(await temporaryFolder(), "password");
  const place = parseEtcdUrl(`etcd://VU@one?passwordFile=${file}`);
  await assert.rejects(readCredentials(place), {
    code: "configuration_invalid",
    message: `The knowledge store's passwordFile ${file} cannot be read: ENOENT.`,
  });
  for (const [text, password] of [
    ["first\n", "first"],
    [" second ", " second "],
  ] as const) {
    await writeFile(file, text);
    assert.equal((await readCredentials(place)).password, password);
  }
});
