/**
 * Small results in one message: frames that are there right behind a Start go along in it (`Start.following`), to whoever takes
 * them so. Three frames in three messages cost a hop and the bus most of three times as much as one.
 */
import { create } from "@bufbuild/protobuf";
import { AppError } from "../errors.ts";
import { FrameSchema, type Frame } from "./gen/dynamos/v1/stream_pb.ts";

/** Initial gRPC metadata of who takes frames: the forms that it understands besides the plain one, separated by commas. */
export const ACCEPT_FRAMES = "dynamos-accept-frames";

/** What {@link ACCEPT_FRAMES} says of who takes `Start.following`. */
export const FOLLOWING = "following";

/** What it says of who offers `WholeStreamsService` (`whole-streams.ts`). */
export const WHOLE = "whole";

/** Frames that may follow in one message: a result of more, or of more data, is no small one. */
export const MOST_FOLLOWING = 6;
const MOST_DATA_BYTES = 16 * 1024;
/** With all else that makes a frame large: schema and grants, notes, what a failure says. */
const MOST_BYTES = 64 * 1024;

/** One message of frames of one stream: the first with the others in it, of which there are none unless it is a Start. */
export function joined(frames: readonly Frame[]): Frame {
  const [first, ...others] = frames as readonly [Frame, ...Frame[]];
  if (others.length === 0 || first.body.case !== "start") return first;
  const following = others.map(({ sequence, body }) => create(FrameSchema, { sequence, body }));
  return { ...first, body: { case: "start", value: { ...first.body.value, following } } };
}

/** The frames that came in one message. Fails with `data_invalid` for more than may follow. */
export function separated(frame: Frame): readonly Frame[] {
  const { provider, requestId, attempt, body } = frame;
  if (body.case !== "start" || body.value.following.length === 0) return [frame];
  if (body.value.following.length > MOST_FOLLOWING) {
    throw new AppError(
      "data_invalid",
      `At most ${String(MOST_FOLLOWING)} frames may follow a Start in its message; ${String(body.value.following.length)} came.`,
    );
  }
  const first: Frame = { ...frame, body: { case: "start", value: { ...body.value, following: [] } } };
  return [first, ...body.value.following.map((next) => ({ ...next, provider, requestId, attempt }))];
}

/** A stream's frames one by one. Not a generator: leaving one that has not begun would not leave its source. */
export function separatedFrames(messages: AsyncIterable<Frame>): AsyncIterable<Frame> {
  return {
    [Symbol.asyncIterator]: () => {
      const iterator = messages[Symbol.asyncIterator]();
      let waiting: readonly Frame[] = [];
      return {
        next: async () => {
          const [known, ...others] = waiting;
          waiting = others;
          if (known !== undefined) return { done: false, value: known };
          const next = await iterator.next();
          if (next.done === true) return next;
          const [first = next.value, ...rest] = separated(next.value);
          waiting = rest;
          return { done: false, value: first };
        },
        return: async () => (await iterator.return?.()) ?? OVER,
      };
    },
  };
}

/** A stream's frames in the messages that they go in: each alone, but for those that are there right behind the Start. */
export class FrameGroups implements AsyncIterable<readonly Frame[]> {
  readonly #frames: AsyncIterable<Frame>;
  readonly #mayGather: () => boolean;

  /** @param mayGather whether the receiver takes `Start.following`; asked when the Start is there. */
  constructor(frames: AsyncIterable<Frame>, mayGather: () => boolean) {
    this.#frames = frames;
    this.#mayGather = mayGather;
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Frame[]> {
    const iterator = this.#frames[Symbol.asyncIterator]();
    // Asked for with the Start, and not there in time, or too large.
    let ahead: Promise<IteratorResult<Frame>> | undefined;
    const next = async (): Promise<IteratorResult<readonly Frame[]>> => {
      const first = await (ahead ?? iterator.next());
      ahead = undefined;
      if (first.done === true) return OVER;
      const group = [first.value];
      if (first.value.body.case !== "start" || !this.#mayGather()) return { done: false, value: group };
      let [bytes, data] = [restBytes(first.value), 0];
      while (group.length <= MOST_FOLLOWING) {
        ahead = iterator.next();
        const soon = await atOnce(ahead);
        if (soon === undefined || soon.done === true) break;
        data += dataBytes(soon.value);
        bytes += restBytes(soon.value);
        if (data > MOST_DATA_BYTES || data + bytes > MOST_BYTES) break;
        group.push(soon.value);
        ahead = undefined;
        if (isLast(soon.value)) break;
      }
      return { done: false, value: group };
    };
    const leave = async (): Promise<IteratorResult<readonly Frame[]>> => {
      await iterator.return?.();
      return OVER;
    };
    return { next, return: leave };
  }
}

const OVER: IteratorReturnResult<undefined> = { done: true, value: undefined };

/** What is there without waiting for anything from outside of this process; undefined for what is not, and for a failure, which its own reader gets. */
function atOnce<T>(work: Promise<T>): Promise<T | undefined> {
  return new Promise((resolve) => {
    const late = setImmediate(() => resolve(undefined));
    const done = (value?: T): void => {
      clearImmediate(late);
      resolve(value);
    };
    work.then(done, () => done());
  });
}

function dataBytes({ body }: Frame): number {
  return body.case === "chunk" || body.case === "attachment" ? body.value.data.byteLength : 0;
}

/** About how much it is without its data. */
function restBytes({ body }: Frame): number {
  if (body.case === "start") {
    const { arrowSchema, grants, request } = body.value;
    return arrowSchema.byteLength + lengthOf([...grants, request?.query ?? ""]);
  }
  if (body.case === "end") return lengthOf([body.value.notesJson]);
  return body.case === "failure" ? lengthOf([body.value.detail, body.value.detailsJson]) : 0;
}

function lengthOf(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + text.length, 0);
}

/** Whether it ends its stream. */
export function isLast({ body }: Frame): boolean {
  return body.case === "end" || body.case === "failure";
}
