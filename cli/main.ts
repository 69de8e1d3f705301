#!/usr/bin/env node
/** The command line: parses arguments, calls one command. */
import { parseArgs } from "node:util";
import { isUnexpected, toAppError } from "../lib/errors.ts";
import { EXCHANGE_FLAGS } from "./exchange/settings.ts";
import { asksForHelp, asWrongCall, isCommand, usage, usageOf, wrongCall, type CommandName } from "./usage.ts";

const [command = "help", ...rest] = process.argv.slice(2);
const write = (line: string): void => console.log(line);
try {
  process.exitCode = await run(command, rest);
} catch (error) {
  const wrong = asWrongCall(error);
  const known = wrong ?? toAppError(error);
  const place = known.place;
  const where = [place?.file, place?.line, place?.column].filter((part) => part !== undefined).join(":");
  // On one's own machine nothing is to be hidden.
  const message = isUnexpected(known) && known.cause instanceof Error ? known.cause.message : known.message;
  console.error(`${where === "" ? "" : `${where}: `}${message} [${known.code}]`);
  if (wrong !== undefined && isCommand(command)) console.error(usageOf(command));
  process.exitCode = wrong === undefined ? 1 : 2;
}

/** The exit code is 0, 2 for a call that cannot be understood, and else what the command says, 1 where it fails. */
async function run(name: string, args: string[]): Promise<number> {
  if (isCommand(name)) {
    if (!asksForHelp(args)) return dispatch(name, args);
    write(usageOf(name));
    return 0;
  }
  if (["help", "--help", "-h"].includes(name)) {
    write(usage());
    return 0;
  }
  console.error(`There is no command "${name}".\n\n${usage()}`);
  return 2;
}

async function dispatch(name: CommandName, args: string[]): Promise<number> {
  switch (name) {
    case "up": {
      const { values } = parseArgs({
        args,
        options: {
          configuration: { type: "string" },
          port: { type: "string", default: "8080" },
          state: { type: "string" },
          ...EXCHANGE_FLAGS,
        },
      });
      const { up } = await import("./commands/up.ts");
      await up({
        configuration: values.configuration,
        port: portNumber(values.port),
        stateFolder: values.state,
        flags: values,
        write,
        untilStopped: stopSignal(),
      });
      return 0;
    }
    case "demo": {
      const { values } = parseArgs({
        args,
        options: { keep: { type: "boolean", default: false }, ...EXCHANGE_FLAGS },
      });
      const { demo } = await import("./commands/demo.ts");
      return demo({ write, keep: values.keep, flags: values });
    }
    case "doctor": {
      const { values } = parseArgs({
        args,
        options: {
          configuration: { type: "string" },
          state: { type: "string" },
          store: { type: "string" },
          bus: { type: "string" },
          orchestrator: { type: "string" },
          ca: { type: "string" },
          kubernetes: { type: "boolean", default: false },
          "try-network": { type: "boolean", default: false },
          namespace: { type: "string", multiple: true, default: [] },
          json: { type: "boolean", default: false },
        },
      });
      const { doctor } = await import("./commands/doctor.ts");
      const { configuration, state, store, bus, orchestrator, ca, json, namespace } = values;
      const tryNetwork = values["try-network"];
      if ((namespace.length > 0 || tryNetwork) && !values.kubernetes)
        throw wrongCall("--namespace and --try-network go with --kubernetes.");
      const kubernetes = values.kubernetes ? { namespaces: namespace, tryNetwork } : undefined;
      return doctor({ configuration, stateFolder: state, store, bus, orchestrator, ca, kubernetes, json, write });
    }
    case "ask": {
      const { values, positionals } = parseArgs({
        args,
        allowPositionals: true,
        options: {
          orchestrator: { type: "string", default: "http://localhost:8080" },
          ready: { type: "string", multiple: true, default: [] },
          wait: { type: "string", default: "0" },
        },
      });
      const { ask } = await import("./commands/ask.ts");
      const { orchestrator, ready, wait } = values;
      if (positionals.length > 1) throw wrongCall("dynamos ask takes one file.");
      return ask({ file: positionals[0], orchestrator, ready, waitMs: seconds(wait) * 1000, write });
    }
    case "dead-letters": {
      const { values, positionals } = parseArgs({
        args,
        allowPositionals: true,
        options: {
          bus: { type: "string" },
          state: { type: "string" },
          limit: { type: "string", default: "100" },
          json: { type: "boolean", default: false },
        },
      });
      const { deadLetters } = await import("./commands/dead-letters.ts");
      const { bus, state, json } = values;
      return deadLetters({ words: positionals, bus, stateFolder: state, limit: count(values.limit), json, write });
    }
    case "data": {
      const { data } = await import("./commands/data.ts");
      return data(args, write);
    }
    case "steward": {
      const { steward } = await import("./commands/steward.ts");
      return steward(args, write);
    }
    default:
      return name satisfies never;
  }
}

function portNumber(text: string): number {
  const port = Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) throw wrongCall(`--port ${text} is no port: 0 to 65535.`);
  return port;
}

function count(text: string): number {
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1) throw wrongCall(`--limit ${text}: write a number from 1.`);
  return limit;
}

function seconds(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw wrongCall(`--wait ${text}: write a number of seconds.`);
  return Number(text);
}

function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGINT", resolve);
    process.once("SIGTERM", resolve);
  });
}
