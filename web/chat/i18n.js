// The texts of the page.  {0} stands for what is put in.

const en = {
  skip: "Skip to the question",
  history: "History", close_history: "Close the history", new_chat: "New chat", search: "Search conversations", search_short: "Search",
  nothing_found: "Nothing found", untitled: "New chat", rename: "Rename", delete: "Delete", actions: "Actions",
  export: "Export", import: "Import", imported: "{0} conversations imported", delete_all: "Delete all conversations",
  not_a_file: "This file holds no conversations of minke: {0}", not_kept: "This browser keeps nothing: the history ends with this page.",
  sure_delete: "Delete “{0}”? This cannot be undone.", sure_delete_message: "Delete this message and what follows it?",
  today: "Today", yesterday: "Yesterday", week: "Last 7 days", older: "Older",
  model: "Model", context: "Context used", settings: "Settings", close: "Close", done: "Done", cancel: "Cancel", reset: "Server’s defaults",
  ok: "Ready", loading: "Loading {0}", draining: "Shutting down", gone: "No connection", failed: "Error", locked: "Key needed",
  empty_title: "What shall we think about?", empty_text: "The model runs on your own server. Conversations stay in this browser.",
  ask: "Ask something", send: "Send", stop: "Stop", hint: "Enter sends, Shift-Enter begins a line. Models make mistakes: check what matters.",
  to_end: "To the end", you: "You", answer: "Answer",
  thinking: "Thinking…", thought: "Thought for {0}", thought_some: "Thought", waiting: "Reading the question…", behind: "Taking the answer up where it broke off: {0} %",
  interrupted: "This answer was interrupted.", go_on: "Continue", live_resumed: "Taking the answer up where it broke off",
  waiting_model: "Waiting for the model…", m_loaded: "loaded", m_loading: "loading", m_unloaded: "not loaded", m_unloading: "unloading",
  copy: "Copy", copied: "Copied", edit: "Edit", regenerate: "Regenerate", save_send: "Save and send", as_answer: "Save",
  branch: "Version {0} of {1}", previous: "Previous version", next: "Next version",
  tokens: "Tokens", show_tokens: "Show tokens and their probabilities", speed: "{0} tokens/s", n_tokens: "{0} tokens", one_token: "1 token", cached: "{0} from cache",
  first: "first after {0}",
  stopped: "Stopped", cut_length: "The answer reached its limit of tokens.", full: "The context is full.",
  live_done: "Answer complete: {0}", live_stopped: "Answer stopped", live_thinking: "The model is thinking", live_branch: "Version {0} of {1} is shown",
  attach: "Attach text files", files: "Attached files", drop_here: "Drop text files here", remove_file: "Remove {0}", file_removed: "{0} removed",
  file_added: "{0} attached", file_binary: "“{0}” is not a text file: notes, tables (CSV), JSON and source code can be attached.",
  file_large: "“{0}” is too large: {1}, and at most {2} can be attached.", file_many: "At most {0} files can be attached.",
  file_unread: "“{0}” cannot be read.", file_empty: "“{0}” is empty.",
  files_full: "With the attached files the conversation has {0} tokens, but the context holds {1}. Remove a file, or start a new chat.",
  key_title: "This server asks for a key", key_text: "It was printed when the server started, or given to you by who runs it. It is kept until this tab is closed.",
  key_label: "Key", key_ok: "Use key",
  e_gone: "The server does not answer. Is minke serve still running?", e_cut: "The connection ended in the middle of the answer. What had arrived is kept.",
  e_key: "The server wants a valid key.", e_full: "The conversation no longer fits into the context of {0} tokens. Shorten the question, or start a new chat.",
  e_bad: "The server refused the request. Look at the settings, or try again without them.", e_busy: "The server is busy. Try again in {0} s.",
  e_server: "The server could not answer.",
  e_forbidden: "This server does not answer pages from this address. Open it under the address that it printed.",
  retry: "Try again", give_key: "Enter key", dismiss: "Dismiss",
  about: "With", keys: "Keyboard", k_send: "send", k_line: "new line", k_stop: "stop the answer, close", k_search: "search the history",
  k_new: "new chat", k_edit: "edit the last question (in an empty field)", k_settings: "settings",
  g_chat: "Conversation", g_sampling: "Sampling", g_thinking: "Thinking", g_page: "Page",
  s_system: "System prompt", s_system_help: "Of this conversation, and of new ones.",
  s_temperature: "Temperature", s_temperature_help: "0 always takes the likeliest token.", s_top_p: "Top p", s_top_k: "Top k", s_min_p: "Min p",
  s_repetition_penalty: "Repetition penalty", s_presence_penalty: "Presence penalty", s_frequency_penalty: "Frequency penalty",
  s_max_tokens: "Tokens at most", s_seed: "Seed", s_seed_help: "The same seed gives the same answer.", s_stop: "Stop texts", s_stop_help: "One a line.",
  s_think: "Think before answering", s_effort: "Effort", s_budget: "Thinking tokens at most", s_open: "Keep thinking open",
  s_logprobs: "Token probabilities", s_logprobs_help: "Answers show their tokens; point at one to see what else was likely.",
  s_theme: "Theme", s_lang: "Language", s_ctrl_enter: "Ctrl-Enter sends, Enter begins a line",
  o_default: "server’s default", o_on: "on", o_off: "off", o_low: "low", o_medium: "medium", o_high: "high", o_auto: "as the system", o_light: "light", o_dark: "dark",
  no_limit: "none", random: "random", default: "default {0}", no_text: "none", invalid: "Expected a number from {0} to {1}",
};

const ko = {
  skip: "질문 입력으로 건너뛰기",
  history: "대화 기록", close_history: "대화 기록 닫기", new_chat: "새 대화", search: "대화 검색", search_short: "검색",
  nothing_found: "찾은 대화가 없습니다", untitled: "새 대화", rename: "이름 바꾸기", delete: "삭제", actions: "작업",
  export: "내보내기", import: "가져오기", imported: "대화 {0}개를 가져왔습니다", delete_all: "모든 대화 삭제",
  not_a_file: "minke 대화가 들어 있지 않은 파일입니다: {0}", not_kept: "이 브라우저는 저장을 허용하지 않아 이 페이지를 닫으면 기록이 사라집니다.",
  sure_delete: "“{0}” 대화를 삭제할까요? 되돌릴 수 없습니다.", sure_delete_message: "이 메시지와 그 뒤의 내용을 삭제할까요?",
  today: "오늘", yesterday: "어제", week: "지난 7일", older: "이전",
  model: "모델", context: "컨텍스트 사용량", settings: "설정", close: "닫기", done: "완료", cancel: "취소", reset: "서버 기본값으로",
  ok: "준비됨", loading: "불러오는 중 {0}", draining: "종료하는 중", gone: "연결 안 됨", failed: "오류", locked: "키 필요",
  empty_title: "무엇을 함께 생각해 볼까요?", empty_text: "모델은 내 서버에서 실행되고, 대화는 이 브라우저에만 저장됩니다.",
  ask: "무엇이든 물어보세요", send: "보내기", stop: "멈추기", hint: "Enter로 보내고 Shift-Enter로 줄을 바꿉니다. 모델은 틀릴 수 있으니 중요한 내용은 확인하세요.",
  to_end: "맨 아래로", you: "나", answer: "답변",
  thinking: "생각하는 중…", thought: "{0} 동안 생각함", thought_some: "생각 과정", waiting: "질문을 읽는 중…", behind: "중단된 답변을 이어 가는 중: {0}%",
  interrupted: "이 답변은 도중에 중단되었습니다.", go_on: "계속", live_resumed: "중단된 답변을 이어 갑니다",
  waiting_model: "모델을 기다리는 중…", m_loaded: "불러옴", m_loading: "불러오는 중", m_unloaded: "불러오지 않음", m_unloading: "내리는 중",
  copy: "복사", copied: "복사됨", edit: "수정", regenerate: "다시 생성", save_send: "저장하고 보내기", as_answer: "저장",
  branch: "{1}개 중 {0}번째", previous: "이전 버전", next: "다음 버전",
  tokens: "토큰", show_tokens: "토큰과 확률 보기", speed: "초당 {0}토큰", n_tokens: "{0}토큰", one_token: "1토큰", cached: "캐시 {0}",
  first: "첫 토큰까지 {0}",
  stopped: "멈춤", cut_length: "답변이 토큰 한도에 도달했습니다.", full: "컨텍스트가 가득 찼습니다.",
  live_done: "답변 완료: {0}", live_stopped: "답변을 멈췄습니다", live_thinking: "모델이 생각하고 있습니다", live_branch: "{1}개 중 {0}번째 버전을 표시합니다",
  attach: "텍스트 파일 첨부", files: "첨부한 파일", drop_here: "여기에 텍스트 파일을 놓으세요", remove_file: "{0} 빼기", file_removed: "{0} 첨부를 뺐습니다",
  file_added: "{0} 첨부됨", file_binary: "“{0}”은(는) 텍스트 파일이 아닙니다. 메모, 표(CSV), JSON, 소스 코드를 첨부할 수 있습니다.",
  file_large: "“{0}”은(는) 너무 큽니다({1}). 최대 {2}까지 첨부할 수 있습니다.", file_many: "파일은 최대 {0}개까지 첨부할 수 있습니다.",
  file_unread: "“{0}” 파일을 읽을 수 없습니다.", file_empty: "“{0}”은(는) 빈 파일입니다.",
  files_full: "첨부한 파일을 더하면 대화가 {0}토큰이 되어 컨텍스트 {1}토큰을 넘습니다. 파일을 빼거나 새 대화를 시작하세요.",
  key_title: "이 서버는 키가 필요합니다", key_text: "서버가 시작할 때 출력한 키, 또는 운영자에게 받은 키를 입력하세요. 이 탭을 닫을 때까지만 보관합니다.",
  key_label: "키", key_ok: "키 사용",
  e_gone: "서버가 응답하지 않습니다. minke serve가 실행 중인가요?", e_cut: "답변 도중에 연결이 끊겼습니다. 받은 내용은 저장했습니다.",
  e_key: "올바른 키가 필요합니다.", e_full: "대화가 컨텍스트 {0}토큰을 넘었습니다. 질문을 줄이거나 새 대화를 시작하세요.",
  e_bad: "서버가 요청을 거절했습니다. 설정을 확인하거나 기본값으로 다시 시도하세요.", e_busy: "서버가 바쁩니다. {0}초 뒤에 다시 시도하세요.",
  e_server: "서버가 답하지 못했습니다.",
  e_forbidden: "이 서버는 이 주소의 페이지에 답하지 않습니다. 서버가 출력한 주소로 여세요.",
  retry: "다시 시도", give_key: "키 입력", dismiss: "닫기",
  about: "사용한 라이브러리:", keys: "키보드", k_send: "보내기", k_line: "줄 바꿈", k_stop: "답변 멈추기, 닫기", k_search: "대화 검색", search_short: "검색",
  k_new: "새 대화", k_edit: "마지막 질문 수정 (입력란이 비었을 때)", k_settings: "설정",
  g_chat: "대화", g_sampling: "샘플링", g_thinking: "생각", g_page: "화면",
  s_system: "시스템 프롬프트", s_system_help: "이 대화와 앞으로의 새 대화에 적용됩니다.",
  s_temperature: "온도", s_temperature_help: "0이면 항상 가장 그럴듯한 토큰을 고릅니다.", s_top_p: "Top p", s_top_k: "Top k", s_min_p: "Min p",
  s_repetition_penalty: "반복 페널티", s_presence_penalty: "존재 페널티", s_frequency_penalty: "빈도 페널티",
  s_max_tokens: "최대 토큰 수", s_seed: "시드", s_seed_help: "시드가 같으면 답도 같습니다.", s_stop: "중단 문구", s_stop_help: "한 줄에 하나씩.",
  s_think: "답하기 전에 생각하기", s_effort: "생각의 강도", s_budget: "생각 토큰 한도", s_open: "생각 과정을 펼쳐 두기",
  s_logprobs: "토큰 확률", s_logprobs_help: "답변을 토큰으로 보여 줍니다. 토큰을 가리키면 다른 후보가 나타납니다.",
  s_theme: "테마", s_lang: "언어", s_ctrl_enter: "Ctrl-Enter로 보내고 Enter로 줄 바꾸기",
  o_default: "서버 기본값", o_on: "켬", o_off: "끔", o_low: "낮음", o_medium: "보통", o_high: "높음", o_auto: "시스템 설정", o_light: "밝게", o_dark: "어둡게",
  no_limit: "없음", random: "무작위", default: "기본값 {0}", no_text: "없음", invalid: "{0}부터 {1}까지의 수를 입력하세요",
};

export const tables = { en, ko };
let table = en, lang = "en";

// "auto": what the browser prefers, if it is among ours.
export function setLanguage(wanted) {
  const names = wanted === "auto" ? navigator.languages : [wanted];
  lang = names.map(n => n.split("-")[0]).find(n => tables[n]) || "en";
  table = tables[lang];
  document.documentElement.lang = lang;
  apply(document);
}

export const language = () => lang;
export const t = (name, ...args) => (table[name] ?? en[name] ?? name).replace(/\{(\d)\}/g, (_, i) => args[i]);
export const number = (v, digits = 0) => v.toLocaleString(lang, { maximumFractionDigits: digits });
export const bytes = n => (n < 1000 ? `${n} B` : n < 1e6 ? `${number(n / 1000, n < 9950 ? 1 : 0)} kB` : `${number(n / 1e6, 1)} MB`);
export const seconds = ms => (ms < 95 ? `${number(ms)} ms` : `${number(ms / 1000, ms < 9950 ? 1 : 0)} ${lang === "ko" ? "초" : "s"}`);

// Writes the texts of elements with data-t (content), data-t-label (name and tooltip), data-t-placeholder.
export function apply(root) {
  for (const e of root.querySelectorAll("[data-t]")) e.textContent = t(e.dataset.t);
  for (const e of root.querySelectorAll("[data-t-placeholder]")) e.placeholder = t(e.dataset.tPlaceholder);
  for (const e of root.querySelectorAll("[data-t-label]")) {
    e.ariaLabel = t(e.dataset.tLabel);
    if (e.matches("button")) e.title = e.ariaLabel;
  }
}
