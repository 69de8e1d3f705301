// Starts the program that was bundled beside this file, with what V8 compiled of it when it was built: docs/decisions/0025. The
// build puts a copy of this file in each program's place, with the path of its bundle instead of BUNDLE.
//
// The compiled code is in a file that names the Node.js that made it. With another Node.js, or where V8 refuses it (it does with
// other flags), the program is compiled as usual. It is only ever read here: the build makes it, and nobody else needs to write.
"use strict";
const { readFileSync } = require("node:fs");
const { Script } = require("node:vm");

const bundle = `${__dirname}/BUNDLE`;
const script = new Script(readFileSync(`${bundle}.cjs`, "latin1"), {
  filename: `${bundle}.cjs`,
  cachedData: compiledCode(),
});
// Its place is this file's: programs beside it are found by their names.
script.runInThisContext()(require, __filename, (name) => import(name));

function compiledCode() {
  try {
    return readFileSync(`${bundle}.${process.version}-${process.arch}.code`);
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}
