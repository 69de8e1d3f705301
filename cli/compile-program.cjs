// Runs a bundled program as its launcher does and writes what V8 compiled of it: node FLAGS compile-program.cjs PLACE BUNDLE CODE.
// The build runs each program without settings: it loads, says what it lacks, and ends. What V8 compiled until then is kept.
// The flags are to be those that the program is run with: V8 refuses what was compiled under others.
"use strict";
const { readFileSync, renameSync, writeFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const { Script } = require("node:vm");

const [place, bundle, code] = process.argv.splice(2);
const script = new Script(readFileSync(bundle, "latin1"), {
  filename: bundle,
});
process.once("exit", () => {
  writeFileSync(`${code}.unfinished`, script.createCachedData());
  renameSync(`${code}.unfinished`, code);
});
script.runInThisContext()(createRequire(place), place, (name) => import(name));
