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
