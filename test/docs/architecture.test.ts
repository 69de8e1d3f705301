/** What the documents name is there: paths, import rules, `npm run` scripts. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../../lib/package-root.ts";
import { codeSpans, pathsIn, readPackageFile, sectionsOf, tableOf } from "../support/markdown.ts";

const DOCUMENTS = [
  "README.md",
  "CONTRIBUTING.md",
  ...(await readdir(join(packageRoot, "docs"))).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`),
];
/** Made when something runs or is installed, or by whoever wants it, so not in a fresh checkout. */
const MADE_LATER = /^(?:\.dynamos|node_modules|dist|exchange\.json)\b/;

for (const path of DOCUMENTS) {
  test(`every path that ${path} names exists`, async () => {
    const paths = pathsIn(await readPackageFile(path)).filter((named) => !MADE_LATER.test(named));
    assert.deepEqual(
      paths.filter((named) => !isThere(named, path)),
      [],
    );
  });

  test(`every script that ${path} runs with npm exists`, async () => {
    const { scripts } = JSON.parse(await readPackageFile("package.json")) as { scripts: Record<string, string> };
    const text = await readPackageFile(path);
    const code = sectionsOf(text).flatMap((section) => section.code.map((block) => block.text));
    const commands = [...codeSpans(text), ...code].join("\n");
    const named = [...commands.matchAll(/\bnpm (?:run (?:--silent )?)?([\w:-]+)/g)].map((match) => match[1] ?? "");
    assert.deepEqual(
      named.filter((name) => name !== "ci" && !(name in scripts)),
      [],
    );
  });
}

/** Paths start at the package, links also at their document. */
function isThere(named: string, document: string): boolean {
  return [join(packageRoot, named), join(packageRoot, document, "..", named)].some((path) => existsSync(path));
}

test("the architecture lists the import rules that are checked", async () => {
  const require = createRequire(join(packageRoot, "package.json"));
  const { forbidden } = require("./.dependency-cruiser.cjs") as { forbidden: readonly { readonly name: string }[] };
  const checked = new Set(forbidden.map(({ name }) => name.replace(/^vendor-.*/, "vendor-*")));
  const listed = tableOf(await readPackageFile("docs/architecture.md"), "Import rules").rows.map((row) => row["Rule"]);
  assert.deepEqual(
    listed,
    [...checked].map((name) => `\`${name}\``),
  );
});

test("README and architecture stay short", async () => {
  for (const [path, most] of [
    ["README.md", 150],
    ["docs/architecture.md", 250],
  ] as const) {
    const lines = (await readPackageFile(path)).trimEnd().split("\n").length;
    assert.ok(lines < most, `${path} has ${String(lines)} lines`);
  }
});
