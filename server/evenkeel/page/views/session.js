// One session and its turns, without prompts or responses.

import { address, poll, read, segment } from '../lib/api.js';
import { h, setAttr, setText } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { link } from '../lib/router.js';
import { dataTable, text } from '../lib/table.js';
import { csvLink, empty, section, stat, timeOf, viewHeading } from '../lib/ui.js';

export function create() {
  let params = {};
  const heading = viewHeading('Session');
  const whose = h('p', { class: 'lead' });
  const stats = { cost: stat('Cost'), requests: stat('Requests'), tokens: stat('Tokens') };
  const csv = csvLink('session.csv');
  const part = section('Turns', { actions: csv, wide: true, note: 'The last 200 are kept.' });
  const table = dataTable({
    caption: 'Turns of the session', key: (turn) => turn.key, emptyState: empty('No turns are kept.'),
    columns: [
      { title: 'Ended', head: true, make: (td) => {
        const time = timeOf('exact');
        td.append(time.element);
        return (turn) => time.set(turn.at_ms);
      } },
      { title: 'Model', make: text((turn) => f.named(turn.model)) },
      { title: 'Outcome', make: text((turn) => `${turn.status || ''} ${String(turn.outcome ?? '').replaceAll('_', ' ')}`.trim()) },
      { title: 'Input', num: true, make: text((turn) => f.int(turn.tokens.input), (turn) => `${f.int(turn.tokens.cached_input)} cached`) },
      { title: 'Output', num: true, make: text((turn) => `${turn.estimated ? '≈ ' : ''}${f.int(turn.tokens.output)}`, (turn) => (turn.estimated ? 'estimated' : `${f.int(turn.tokens.reasoning)} reasoning`)) },
      { title: 'Cost', num: true, make: text((turn) => f.money(turn.cost)) },
      { title: 'First token', num: true, make: text((turn) => (turn.first_token_ms ? f.duration(turn.first_token_ms) : '–')) },
      { title: 'Total', num: true, make: text((turn) => f.duration(turn.total_ms)) },
    ],
  });
  part.body.append(table.element);
  const element = h('div', { class: 'view' }, h('header', { class: 'panel hero slim' },
    h('div', { class: 'hero-words' }, h('p', { class: 'crumbs' }, h('a', { href: link('/usage'), text: 'Usage' })), heading, whose),
    h('dl', { class: 'stats' }, Object.values(stats).map((one) => one.element))), part.element);
  const take = (data) => {
    part.fail(null);
    const { usage } = data;
    stats.cost.set(f.money(usage.cost));
    stats.requests.set(f.int(usage.requests));
    stats.tokens.set(f.compact(usage.tokens.total), `${f.compact(usage.tokens.input)} in, ${f.compact(usage.tokens.output)} out`);
    table.set(data.turns.map((turn, at) => ({ ...turn, key: `${turn.at_ms}/${at}` })).reverse());
  };
  const path = () => `usage/sessions/${segment(params.id ?? '')}`;
  const polled = poll((signal) => read(path(), { consumer: params.consumer }, signal), take, part.fail, () => 4000);
  return {
    title: 'Session', element, watch: () => ({}), refresh: polled.refresh, destroy: polled.stop,
    update(next) {
      params = next;
      this.title = `Session ${params.id ?? ''}`;
      setText(heading, params.id ?? '');
      setText(whose, `Of ${f.named(params.consumer ?? '')}`);
      setAttr(csv, 'href', address(path(), { consumer: params.consumer, format: 'csv' }));
      polled.refresh();
    },
  };
}
