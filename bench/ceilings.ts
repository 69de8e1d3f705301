/** What the transports can do at all, and what is left of it: one hop inside a chain, and one from a steward to a third party. */
import { startRabbitMq, skipRabbitMq } from "../test/support/rabbitmq.ts";
import { openHop } from "./hop.ts";
import { inTurns, ratios, summarize } from "./measured.ts";
import { MOST_CREDITS, openPartyHop, USUAL_CREDITS } from "./party-hop.ts";
import { roundsOf, type Cell, type RunOptions, type Table, type TableBench, type Target } from "./table.ts";

const USUAL_ROUNDS = 9;
const CHUNKS = 600;
const PARTY_CHUNKS = 300;
const LEAST_RATIO = 0.6;
/** Measured beside the way that is used, for the decision against it (docs/decisions/0023). */
const SOCKET_FILE = "in a chain: ours, by a socket file";

/** A way for bytes, and how fast it was, turn by turn. */
interface Rates {
  readonly name: string;
  /** MB a second. */
  readonly rates: readonly number[];
  /** Of what it is compared with. */
  readonly baseline?: readonly number[];
}

/** See the file comment. */
export const CEILINGS: TableBench = {
  name: "ceilings",
  about:
    "one hop in a chain beside plain grpc-js, and a steward's stream to a third party beside plain amqplib: the same bytes in turns",
  run: async (options) => {
    const hop = await measureHop(options);
    const party = skipRabbitMq === false ? await measurePartyHop(options) : { rates: [], targets: [] };
    const notes = [
      "MB is 10⁶ bytes; chunks of 256 KiB between two processes. The ratio is the median of each round's, with its spread.",
      "All send one buffer of random bytes, which no compression makes smaller, again and again; raw ones do not read it at the other end. Ours adds frames, checksums at both ends, and one message under way at a time; over the bus persistent messages with publisher confirms, credits, and acknowledgements after use, as the raw client's, too; compared with a raw client that has as many under way.",
      ...(skipRabbitMq === false ? [] : [`Not measured: ${skipRabbitMq}.`]),
    ];
    return [table([...hop, ...party.rates], party.targets, notes)];
  },
};

async function measureHop(options: RunOptions): Promise<Rates[]> {
  const rounds = roundsOf(options, USUAL_ROUNDS);
  const chunks = options.quick ? 8 : CHUNKS;
  options.progress(`ceilings: ${String(rounds)} rounds of one hop`);
  const hop = await openHop();
  try {
    const megabytes = (chunks * hop.chunkBytes) / 1e6;
    const arrowMegabytes = (chunks * hop.batchBytes) / 1e6;
    const warmUp = Math.ceil(chunks / 4);
    for (const send of [hop.raw, hop.framed, hop.socketFile, hop.arrow]) await send(warmUp);
    const { raw, framed, socketFile, arrow } = await inTurns(rounds, {
      raw: async () => megabytes / (await hop.raw(chunks)),
      framed: async () => megabytes / (await hop.framed(chunks)),
      socketFile: async () => megabytes / (await hop.socketFile(chunks)),
      arrow: async () => arrowMegabytes / (await hop.arrow(chunks)),
    });
    return [
      { name: "in a chain: raw grpc-js", rates: raw },
      { name: "in a chain: ours", rates: framed, baseline: raw },
      { name: SOCKET_FILE, rates: socketFile, baseline: raw },
      { name: "in a chain: ours, Arrow encoded and decoded", rates: arrow, baseline: raw },
    ];
  } finally {
    hop.close();
  }
}

async function measurePartyHop(
  options: RunOptions,
): Promise<{ readonly rates: readonly Rates[]; readonly targets: readonly Target[] }> {
  const rounds = roundsOf(options, USUAL_ROUNDS);
  const chunks = options.quick ? 8 : PARTY_CHUNKS;
  options.progress(`ceilings: ${String(rounds)} rounds of steward to third party over RabbitMQ`);
  const server = await startRabbitMq();
  try {
    const vhost = await server.vhost();
    const hop = await openPartyHop(vhost.url);
    try {
      const megabytes = (chunks * hop.chunkBytes) / 1e6;
      const send = {
        raw: () => hop.raw(chunks),
        rawMore: () => hop.raw(chunks, MOST_CREDITS),
        ours: () => hop.ours(chunks),
        oursMore: () => hop.ours(chunks, MOST_CREDITS),
      };
      // Streams of this size are long ones: neither is compared while V8 still compiles it.
      for (const warmUp of Object.values(send)) await warmUp();
      const { raw, rawMore, ours, oursMore } = await inTurns(rounds, {
        raw: async () => megabytes / (await send.raw()),
        rawMore: async () => megabytes / (await send.rawMore()),
        ours: async () => megabytes / (await send.ours()),
        oursMore: async () => megabytes / (await send.oursMore()),
      });
      const underWay = (name: string, credits: number): string =>
        `steward to third party: ${name}, ${String(credits)} under way`;
      const rates = [
        { name: underWay("raw amqplib, confirmed", USUAL_CREDITS), rates: raw },
        { name: underWay("raw amqplib, confirmed", MOST_CREDITS), rates: rawMore },
        { name: underWay("ours over RabbitMQ", USUAL_CREDITS), rates: ours, baseline: raw },
        { name: underWay("ours over RabbitMQ", MOST_CREDITS), rates: oursMore, baseline: rawMore },
      ];
      const target: Target = {
        what: `${underWay("ours over RabbitMQ", USUAL_CREDITS)}, of raw with ${String(MOST_CREDITS)}`,
        measured: ratios(ours, rawMore).median,
        atLeast: LEAST_RATIO,
      };
      return { rates, targets: [target] };
    } finally {
      await hop.close();
      await vhost.remove();
    }
  } finally {
    await server.close();
  }
}

function table(rates: readonly Rates[], others: readonly Target[], notes: readonly string[]): Table {
  return {
    name: "ceilings",
    title: "Raw transports, and ours",
    columns: [{ name: "way" }, { name: "rate", unit: "MB/s" }, { name: "of raw" }],
    rows: rates.map(({ name, rates: values, baseline }): Cell[] => [
      name,
      summarize(values),
      baseline === undefined ? null : ratios(values, baseline),
    ]),
    targets: [
      ...rates.flatMap(({ name, rates: values, baseline }): Target[] =>
        baseline === undefined || name.includes("Arrow") || name === SOCKET_FILE
          ? []
          : [{ what: `${name}, of raw`, measured: ratios(values, baseline).median, atLeast: LEAST_RATIO }],
      ),
      ...others,
    ],
    notes,
  };
}
