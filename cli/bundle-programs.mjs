// Bundles the programs that start often, or stay idle for long: one file each, without what it never uses, and beside it what V8
// compiled of it, so that a start neither looks for modules nor compiles them (docs/decisions/0025).
//
// dist/bundle/NAME.js             the launcher: what is run
// dist/bundle/NAME.HASH.cjs       the program; named by its content, so that a launcher finds the one it was made for
// dist/bundle/NAME.HASH.…code     what V8 compiled of it, for this Node.js
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { build } from "esbuild";

const services = ["orchestrator/main", "orchestrator/policy-enforcer/main", "agent/main", "sidecar/messaging-main"];
const microservices = ["sql-query", "sql-anonymize", "sql-aggregate", "sql-algorithm", "sql-graph"];
const inChains = [
  "sidecar/main",
  ...microservices.map((name) => `microservices/${name}/main`),
  "microservices/sql-query/query-child",
  "microservices/sql-query/world-child",
];
/** Native code, and what is loaded only now and then, stays outside. */
const outside = [
  "better-sqlite3",
  "@duckdb/node-api",
  "vega",
  "vega-lite",
  "@resvg/resvg-js",
  "dejavu-fonts-ttf",
  "@viz-js/viz",
  "@opentelemetry/sdk-node",
  "@opentelemetry/exporter-trace-otlp-http",
];
/** etcd's client reads files of its own package, and must meet the same gRPC as the adapter around it. */
const outsideServices = [...outside, "etcd3", "@grpc/grpc-js", "@kubernetes/client-node"];

/**
 * What a program is run with by others of this package: see `microservices/sql-query/query-process.ts`, `agent/programs.ts`,
 * `cli/exchange/service-process.ts`, `charts/agent` and `Dockerfile`.
 */
const flagsOf = (file) => {
  const path = file.replaceAll("\\", "/");
  if (path.endsWith("query-child.js"))
    return ["--max-old-space-size=96", "--max-semi-space-size=2", "--heap-growing-percent=10"];
  if (path.endsWith("agent/main.js")) return ["--max-semi-space-size=8"];
  if (path.endsWith("sql-aggregate/main.js")) return ["--max-semi-space-size=1", "--heap-growing-percent=10"];
  if (path.endsWith("sidecar/main.js")) return ["--max-semi-space-size=2", "--heap-growing-percent=25"];
  const isMicroservice = /microservices\/[\w-]+\/main\.js$/.test(path);
  return isMicroservice ? ["--max-semi-space-size=4", "--heap-growing-percent=25"] : [];
};

/** Bundles all programs of `dist/` below `root`; resolves with the absolute paths of what it wrote. */
export async function bundlePrograms(root) {
  const launcher = readFileSync(join(root, "cli/program-launcher.cjs"), "utf8");
  const folder = join(root, "dist/bundle");
  mkdirSync(folder, { recursive: true });
  // The launchers are CommonJS, which starts sooner; the package is not.
  const written = [place(join(folder, "package.json"), '{ "type": "commonjs" }\n')];
  for (const [programs, external] of [
    [inChains, outside],
    [services, outsideServices],
  ]) {
    for (const { path, text } of await bundle(root, programs, external)) {
      const name = path.slice(0, -".js".length);
      const hash = createHash("sha256").update(text).update(flagsOf(path).join(" ")).digest("hex").slice(0, 12);
      mkdirSync(dirname(path), { recursive: true });
      const program = place(`${name}.${hash}.cjs`, text);
      written.push(program, await compile(root, path, program));
      written.push(place(path, launcher.replaceAll("BUNDLE", `${basename(name)}.${hash}`)));
    }
  }
  return written;
}

/** Has V8's compiled code written; resolves with its file. */
async function compile(root, path, program) {
  const code = program.replace(/cjs$/, `${process.version}-${process.arch}.code`);
  if (existsSync(code)) return code;
  const command = [...flagsOf(path), join(root, "cli/compile-program.cjs"), path, program, code];
  const compiling = spawn(process.execPath, command, { env: {}, stdio: "ignore", timeout: 60_000 });
  await once(compiling, "close");
  if (!existsSync(code)) throw new Error(`${program} could not be compiled ahead: node ${command.join(" ")}`);
  return code;
}

/** V8 forgets how to import for a script whose compiled code it is given, so that packages are imported by the launcher. */
const DYNAMIC_IMPORT = /(?<![.\w$])import\(/g;

async function bundle(root, programs, external) {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: programs.map((program) => `dist/${program}.js`),
    outdir: "dist/bundle",
    outbase: "dist",
    write: false,
    bundle: true,
    platform: "node",
    format: "cjs",
    target: "node20",
    minifyWhitespace: true,
    minifySyntax: true,
    lineLimit: 120,
    charset: "ascii",
    logLevel: "warning",
    external,
    define: { "import.meta.url": "bundleUrl" },
    // The value of the script: the function that the launcher calls.
    banner: {
      js: '(function(require,__filename,importModule){const bundleUrl=require("node:url").pathToFileURL(__filename).href,module={exports:{}};',
    },
    footer: { js: "})" },
  });
  return outputFiles.map(({ path, text }) => ({ path, text: text.replace(DYNAMIC_IMPORT, "importModule(") }));
}

/** Writes in one step: a program may be started meanwhile. */
function place(path, text) {
  const unfinished = `${path}.unfinished`;
  writeFileSync(unfinished, text);
  renameSync(unfinished, path);
  return path;
}
