import assert from "node:assert/strict";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { loadOrCreateSecretFile } from "../../lib/secret-files.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

test("a key file that many make at once is one key for all, whole, and its owner's alone", async () => {
  const folder = join(await temporaryFolder(), "keys");
  const path = join(folder, "key");
  const texts = await Promise.all(
    Array.from({ length: 20 }, (_, index) => loadOrCreateSecretFile(path, async () => `key ${String(index)}`)),
  );
  assert.equal(new Set(texts).size, 1);
  assert.equal(await loadOrCreateSecretFile(path, () => assert.fail("it is there already")), texts[0]);
  assert.deepEqual(await readdir(folder), ["key"]);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
});

test("a key file that is missing where nothing can be written is named, and so is one that cannot be read", async (t) => {
  const invalid = (message: RegExp) => ({ code: "configuration_invalid", message });
  const folder = await temporaryFolder();
  await assert.rejects(
    loadOrCreateSecretFile(folder, () => "key"),
    invalid(/cannot be read: EISDIR/),
  );
  if (process.platform !== "linux") return t.skip("only Linux has a file system where root cannot write");
  await assert.rejects(
    loadOrCreateSecretFile("/sys/dynamos-keys/admin-key", () => "key"),
    invalid(/admin-key is not there, and cannot be made.*put it there/),
  );
});
