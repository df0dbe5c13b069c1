// What one agent did in the last hour: asked for, and as names and values that a list or a table shows.

import { amount, isNumber, number, ratio, share, span } from "./format.js";
import { usePoll } from "./parts.js";
import { Poll, pathOf } from "./poll.js";

const HOUR_MS = 3_600_000;
const STATS_MS = HOUR_MS - 120_000; // an hour of minutes is kept, the present one among them: earlier times are answered by whole hours
const EVERY_MS = 10_000;
const since = (ms) => new Date(Date.now() - ms).toISOString();

export function useStats(id) {
  return usePoll((draw) => new Poll(() => pathOf("/api/v1/agents/", id, `/stats?from=${since(STATS_MS)}`), EVERY_MS, draw), [id]);
}

export function useMinutes(id) {
  return usePoll((draw) => new Poll(() => pathOf("/api/v1/agents/", id, `/windows?interval=minute&from=${since(HOUR_MS)}`), EVERY_MS, draw), [id]);
}

/** [[name, value, title?]] of an answer to `stats`. */
export function figuresOf(data) {
  const trend = isNumber(data.confidenceTrend) ? `${data.confidenceTrend >= 0 ? "+" : "−"}${Math.abs(data.confidenceTrend).toPrecision(2)}/h` : "–";
  return [
    ["Executions", number(data.totalExecutions)],
    ["Success", share(data.successRate)],
    ["Confidence", ratio(data.avgConfidence), `from ${ratio(data.minConfidence)} to ${ratio(data.maxConfidence)}`],
    ["Trend", trend, "How its confidence changes, an hour; positive is better"],
    ["p50", span(data.p50ExecutionTime)],
    ["p95", span(data.p95ExecutionTime)],
    ["p99", span(data.p99ExecutionTime)],
    ...(data.waitTime ? [["Wait, p95", span(data.waitTime.p95), `Before its first call; ${span(data.waitTime.mean)} on average`]] : []),
    ...(data.totalTokens ? [["Tokens", number(data.totalTokens.sum), `${number(data.totalTokens.mean)} an answer, 95 of 100 at most ${number(data.totalTokens.p95)}`]] : []),
    ...(data.cost ? [["Cost", amount(data.cost.sum), `${amount(data.cost.mean)} an answer, 95 of 100 at most ${amount(data.cost.p95)}`]] : []),
    ["Brier", ratio(data.brier), "Mean squared distance between confidence and success; 0 is best"],
  ];
}
